// Khronos' validator on GLB files: node validate.mjs NODE_MODULES FILE... prints one JSON list of reports.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [modules, ...files] = process.argv.slice(2);
const validator = createRequire(resolve(modules) + "/")(resolve(modules, "gltf-validator"));
const reports = [];
for (const file of files) {
  reports.push((await validator.validateBytes(new Uint8Array(readFileSync(file)))).issues);
}
console.log(JSON.stringify(reports));
