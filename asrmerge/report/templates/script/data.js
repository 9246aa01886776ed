// The page's data, see packing.py; rows become objects.
const data = JSON.parse(byId("data").textContent);
const models = data.models.map((model, index) => ({ ...model, index }));
const focus = data.focus;
const modelNamed = (name) => models.findIndex((model) => model.name === name);
const domainNamed = (name) => data.domains.findIndex((domain) => domain.name === name);
