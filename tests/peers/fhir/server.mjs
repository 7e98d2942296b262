// A real FHIR R4 server for tests: @medplum/fhir-router behind HTTP on 127.0.0.1.
//
//   node server.mjs PORT JOURNAL
//
// It validates what it is sent, runs a transaction wholly or not at all, refuses references
// that lead nowhere, and writes every accepted resource to the file JOURNAL before it
// answers, so that it can be stopped or killed and started again. `POST /$reset` empties it.
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';

import { core, issuesOf } from './definitions.mjs';

const { FhirRouter, MemoryRepository } = await import('@medplum/fhir-router');
const { allOk, badRequest, getStatus, isOk, OperationOutcomeError } = core;

const BASE = '/fhir';
const [port, journal] = [Number(process.argv[2]), process.argv[3]];
if (!port || !journal) throw new Error('usage: node server.mjs PORT JOURNAL');

class JournalledRepository extends MemoryRepository {
  changes = [];

  createResourceSync(resource, options, update) {
    const stored = super.createResourceSync(resource, options, update);
    this.changes.push({ put: stored });
    return stored;
  }

  async deleteResource(resourceType, id, options) {
    await super.deleteResource(resourceType, id, options);
    this.changes.push({ delete: [resourceType, id] });
  }

  async load(file) {
    if (!existsSync(file)) return;
    await this.withSeeding(async () => {
      for (const line of readFileSync(file, 'utf8').split('\n').filter(Boolean)) {
        const change = JSON.parse(line);
        if (change.put) super.createResourceSync(change.put, undefined, true);
        else await super.deleteResource(...change.delete);
      }
    });
  }

  /** A search by one identifier evaluates only what has its value: FHIRPath is slow. */
  searchSync(search) {
    const [filter, ...others] = search.filters ?? [];
    const byIdentifier = filter?.code === 'identifier' && filter.operator === core.Operator.EQUALS;
    const value = byIdentifier ? filter.value.replace(/^[^|]*\|/, '').toLowerCase() : '';
    const all = this.resources.get(search.resourceType);
    if (!all || others.length || !value || /[,|]/.test(value)) return super.searchSync(search);
    const has = (resource) => [resource.identifier].flat().some((i) => i?.value?.toLowerCase() === value);
    this.resources.set(search.resourceType, new Map([...all].filter(([, resource]) => has(resource))));
    try {
      return super.searchSync(search);
    } finally {
      this.resources.set(search.resourceType, all);
    }
  }

  /** Runs work; what it changed is kept, on disk first, only if it ends well. */
  async atomically(work) {
    const before = [copy(this.resources), copy(this.history)];
    this.changes = [];
    try {
      const answer = await work();
      this.refuseDanglingReferences();
      const lines = this.changes.map((change) => JSON.stringify(change) + '\n').join('');
      if (lines) appendFileSync(journal, lines);
      return answer;
    } catch (error) {
      [this.resources, this.history] = before;
      throw error;
    }
  }

  refuseDanglingReferences() {
    for (const { put } of this.changes) {
      for (const reference of references(put)) {
        const [type, id] = reference.split('/');
        if (!this.resources.get(type)?.has(id)) {
          throw new OperationOutcomeError(badRequest(`${put.resourceType} refers to a missing resource`));
        }
      }
    }
  }
}

function copy(mapOfMaps) {
  return new Map([...mapOfMaps].map(([key, inner]) => [key, new Map([...inner].map(([id, value]) =>
    [id, Array.isArray(value) ? [...value] : value]))]));
}

function* references(value) {
  if (Array.isArray(value)) for (const item of value) yield* references(item);
  else if (value && typeof value === 'object') {
    for (const [key, inner] of Object.entries(value)) {
      if (key === 'reference' && typeof inner === 'string') {
        // what it contains itself, and what stands at another server, is not looked for here
        if (!inner.startsWith('#') && !inner.includes('://')) yield inner;
      }
      else yield* references(inner);
    }
  }
}

function refuseInvalid(resource) {
  const errors = issuesOf(resource).filter((issue) => issue.severity === 'error');
  if (errors.length) throw new OperationOutcomeError(badRequest(errors.map((e) => e.text).join('; ')));
}

const router = new FhirRouter();
const repository = new JournalledRepository();
await repository.load(journal);

async function route(method, url, headers, body) {
  const request = { method, url, pathname: '', params: {}, query: {}, headers, body };
  const [outcome, resource] = await router.handleRequest(request, repository);
  if (!isOk(outcome)) throw new OperationOutcomeError(outcome);
  if (body?.type === 'transaction') {
    const failed = resource.entry.find((entry) => Number(entry.response.status) >= 300);
    if (failed) throw new OperationOutcomeError(failed.response.outcome);
  }
  return [outcome, resource];
}

const capability = {
  resourceType: 'CapabilityStatement', status: 'active', date: '2026-01-01', kind: 'instance',
  fhirVersion: '4.0.1', format: ['json'], software: { name: 'CAIDX test peer (@medplum/fhir-router)' },
  implementation: { description: 'FHIR R4 server for tests' },
  rest: [{ mode: 'server', interaction: [{ code: 'transaction' }] }],
};

async function handle(method, path, headers, text) {
  if (path === '/$reset') {
    repository.clear();
    writeFileSync(journal, '');
    return [allOk];
  }
  if (!path.startsWith(BASE)) throw new OperationOutcomeError(core.notFound);
  const url = path.slice(BASE.length).replace(/^\//, '');
  if (url === 'metadata') return [allOk, capability];
  if (method === 'GET') return route(method, url, headers);
  let body;
  if (text) {
    try {
      body = JSON.parse(text);
    } catch {
      throw new OperationOutcomeError(badRequest('Body is not JSON'));
    }
    refuseInvalid(body);
  }
  return repository.atomically(() => route(method, url, headers, body));
}

let previous = Promise.resolve(); // one request at a time: the repository knows no isolation

const server = createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const text = Buffer.concat(chunks).toString('utf8');
    previous = previous.then(async () => {
      let outcome, resource;
      try {
        [outcome, resource] = await handle(request.method, request.url, request.headers, text);
      } catch (error) {
        outcome = core.normalizeOperationOutcome(error);
      }
      response.writeHead(getStatus(outcome), { 'content-type': 'application/fhir+json' });
      response.end(JSON.stringify(resource ?? outcome));
    });
  });
});

server.listen(port, '127.0.0.1', () => console.log('ready'));
process.on('SIGTERM', () => process.exit(0));
