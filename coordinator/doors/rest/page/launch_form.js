// The fields of a job that most people set, and how they are read from a document and written into it.

// `of`: the tasks or methods for which a field makes sense; all where it is left out.
export const FIELDS = [
  { section: "What", fields: [
    { path: "name", label: "Name" },
    { path: "model.source", label: "Model" },
    { path: "model.task", label: "Task", options: "tasks" },
    { path: "model.num_labels", label: "Classes", type: "number", of: { "model.task": ["sequence-classification", "token-classification", "image-classification"] } },
    { path: "data.name", label: "Data set", list: "data" },
    { path: "data.max_length", label: "Longest text, in tokens", type: "number" },
  ] },
  { section: "How", fields: [
    { path: "method.kind", label: "Method", options: "methods" },
    { path: "method.rank", label: "Rank", type: "number", without: { "method.kind": ["fedavg"] } },
    { path: "local.steps", label: "Steps in a round", type: "number" },
    { path: "local.batch_size", label: "Examples in a step", type: "number" },
    { path: "local.learning_rate", label: "Learning rate", type: "number", placeholder: "follows the model" },
  ] },
  { section: "How long", fields: [
    { path: "rounds.count", label: "Rounds", type: "number" },
    { path: "rounds.min_clients", label: "Updates a round needs", type: "number" },
    { path: "rounds.deadline_s", label: "A round waits, in seconds", type: "number" },
    { path: "evaluation.every", label: "Evaluate every … rounds", type: "number" },
    { path: "seed", label: "Seed", type: "number" },
  ] },
];

export const get = (document, path) => path.split(".").reduce((found, name) => found?.[name], document);

// A copy in which the field has the value; undefined takes it out.
export function changed(document, path, value) {
  const [name, ...rest] = path.split("."), copy = { ...document };
  if (rest.length) copy[name] = changed(typeof copy[name] === "object" ? copy[name] : {}, rest.join("."), value);
  else if (value === undefined) delete copy[name];
  else copy[name] = value;
  if (copy[name] && typeof copy[name] === "object" && !Object.keys(copy[name]).length) delete copy[name];
  return copy;
}

export function applies(field, document) {
  const holds = (wanted, sense) => Object.entries(wanted ?? {}).every(([path, values]) => values.includes(get(document, path)) === sense);
  return holds(field.of, true) && holds(field.without, false);
}

// What was typed, as the document holds it.
export function typed(field, text) {
  if (text.trim() === "") return undefined;
  return field.type === "number" && Number.isFinite(Number(text)) ? Number(text) : text;
}

export function fresh(agents) {
  const datasets = Object.keys(Object.assign({}, ...agents.map((agent) => agent.datasets)));
  return {
    name: "my-job",
    model: { source: "", task: "sequence-classification", num_labels: 2 },
    data: { name: datasets[0] ?? "" },
    method: { kind: "fedgalore", rank: 8 },
    rounds: { count: 20, min_clients: Math.max(1, Math.min(2, agents.length)) },
    local: { steps: 10, batch_size: 16 },
  };
}

// A document without what is as the defaults have it anyway, so that what somebody chose stands out.
export function trimmed(document, defaults) {
  const kept = {};
  for (const [name, value] of Object.entries(document)) {
    const usual = defaults?.[name];
    if (JSON.stringify(value) === JSON.stringify(usual)) continue;
    const inner = value && usual && typeof value === "object" && !Array.isArray(value);
    kept[name] = inner ? trimmed(value, usual) : value;
  }
  return kept;
}

// Of the coordinator's own description: words for each field, and the kinds there are.
export function described(openapi) {
  const schemas = openapi.components.schemas, named = (ref) => schemas[ref.split("/").at(-1)];
  const kinds = (schemas.JobSpec.properties.method.anyOf ?? schemas.JobSpec.properties.method.oneOf ?? []).map((each) => named(each.$ref));
  const inner = (schema) => (schema.$ref ? named(schema.$ref) : schema.anyOf?.map((each) => each.$ref && named(each.$ref)).find(Boolean) ?? schema);
  const at = (path, kind) => {
    const method = kinds.find((each) => each.properties.kind.const === kind) ?? kinds[0];
    const [first, ...rest] = path.split(".");
    let schema = first === "method" ? method : schemas.JobSpec.properties[first];
    for (const name of rest) schema = inner(schema).properties?.[name] ?? {};
    return (path === "method.kind" ? schemas.JobSpec.properties.method : schema).description ?? "";
  };
  return { help: at, tasks: schemas.ModelSpec.properties.task.enum ?? [], methods: kinds.map((each) => each.properties.kind.const).filter(Boolean) };
}
