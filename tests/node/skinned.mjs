// Vertices as three.js draws them: node skinned.mjs NODE_MODULES FILE [SECONDS]; no display is needed.
// Prints the vertices in the world, and where the two cameras see the first of them.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, file, seconds] = process.argv.slice(2);
const from = (path) => import(pathToFileURL(resolve(modules, "three", path)).href);
const THREE = await from("build/three.module.js");
const { GLTFLoader } = await from("examples/jsm/loaders/GLTFLoader.js");

const content = readFileSync(file);
const bytes = content.buffer.slice(content.byteOffset, content.byteOffset + content.byteLength);
const gltf = await new GLTFLoader().parseAsync(bytes, "");
if (seconds !== undefined) {
  const mixer = new THREE.AnimationMixer(gltf.scene);
  mixer.clipAction(gltf.animations[0]).play();
  mixer.setTime(Number(seconds));
}
gltf.scene.updateMatrixWorld(true);
let mesh;
gltf.scene.traverse((object) => { if (object.isSkinnedMesh) mesh = object; });
const world = [];
const seen = gltf.cameras.map(() => []);
for (let vertex = 0; vertex < mesh.geometry.attributes.position.count; vertex++) {
  const point = mesh.getVertexPosition(vertex, new THREE.Vector3()).applyMatrix4(mesh.matrixWorld);
  world.push(point.toArray());
  gltf.cameras.forEach((camera, number) => seen[number].push(point.clone().project(camera).toArray()));
}
console.log(JSON.stringify({ world, seen, extras: gltf.asset.extras }));
