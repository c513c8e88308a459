// Reads a GLB on standard input and prints the report of the Khronos Group's validator as JSON.
import { createRequire } from "node:module";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
// Only require uses NODE_PATH, import does not.
const validator = createRequire(import.meta.url)("gltf-validator");
const report = await validator.validateBytes(new Uint8Array(Buffer.concat(chunks)));
console.log(JSON.stringify(report));
