// Two independent FHIR R4 validators: @medplum/core and npm's fhir (Lantana).
//
//   node validate.mjs < resources.jsonl
//
// One resource per line in; per resource one line out, a JSON array of issues
// {validator, severity, text}. Each validator misses what the other finds.
import { createInterface } from 'node:readline';

import fhirPackage from 'fhir';

import { issuesOf } from './definitions.mjs';

const fhir = new fhirPackage.Fhir();

function lantanaIssues(resource) {
  return fhir.validate(resource, { errorOnUnexpected: true }).messages.map((message) => ({
    severity: message.severity === 'error' ? 'error' : message.severity,
    text: `${message.location}: ${message.message}`,
  }));
}

function named(validator, issues) {
  return issues.map((issue) => ({ validator, ...issue }));
}

console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const resource = JSON.parse(line);
  console.log(JSON.stringify([
    ...named('medplum', issuesOf(resource)),
    ...named('fhir.js', lantanaIssues(resource)),
  ]));
}
