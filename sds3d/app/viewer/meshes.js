// A glTF file with the materials of each way of shading.

import {Box3, Mesh, MeshBasicMaterial, ShaderMaterial, Sphere, Vector3} from 'three';
import {GLTFLoader} from 'three/addons/loaders/GLTFLoader.js';

// The direction of a surface as a colour: x, y and z from -1 to 1 become red, green and blue from 0 to 255.
const NORMALS = {
  toneMapped: false,
  polygonOffset: true,
  polygonOffsetFactor: 1,
  polygonOffsetUnits: 1,
  vertexShader: `varying vec3 direction, place;
void main() {
  direction = inverse(transpose(mat3(modelMatrix))) * normal;
  place = (modelMatrix * vec4(position, 1.0)).xyz;
  gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
}`,
  fragmentShader: `varying vec3 direction, place;
void main() {
#ifdef FLAT
  vec3 unit = normalize(cross(dFdx(place), dFdy(place)));
#else
  vec3 unit = normalize(direction) * (gl_FrontFacing ? 1.0 : -1.0);
#endif
  gl_FragColor = vec4(0.5 + 0.5 * unit, 1.0);
}`,
};

export async function gltfMesh(bytes) {
  const {scene} = await new GLTFLoader().parseAsync(bytes, '');
  const parts = [];
  scene.traverse(object => object.isMesh && parts.push(object));
  if (!parts.length) throw new Error('the file holds no surface');
  const wires = new MeshBasicMaterial({wireframe: true, color: 0x4f46e5, toneMapped: false});
  const shadings = parts.map(part => shadingsOf(part));
  const lines = parts.map(part => {
    const line = new Mesh(part.geometry, wires);
    line.visible = false;
    part.add(line);
    return line;
  });
  scene.updateMatrixWorld(true);
  return {
    object: scene,
    sphere: around(parts),
    count: parts.reduce((sum, {geometry: {index, attributes}}) => sum + (index || attributes.position).count / 3, 0),
    shade: name => parts.forEach((part, i) => part.material = shadings[i][name]),
    wire: on => lines.forEach(line => line.visible = on),
    dispose() {
      for (const {geometry} of parts) geometry.dispose();
      for (const material of [wires, ...shadings.flatMap(Object.values)]) {
        for (const value of Object.values(material)) if (value?.isTexture) value.dispose();
        material.dispose();
      }
    },
  };
}

function shadingsOf({material: lit, geometry}) {
  const {map, color, vertexColors, side, transparent, opacity, alphaTest, alphaMap, depthWrite} = lit;
  Object.assign(lit, {polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 1});  // lines lie in front
  const unlit = new MeshBasicMaterial({map, color, vertexColors, side, transparent, opacity, alphaTest, alphaMap, depthWrite,
    polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 1});
  const flat = geometry.attributes.normal ? {} : {FLAT: true};  // as glTF shades a surface without normals
  return {Lit: lit, Unlit: unlit, Normals: new ShaderMaterial({...NORMALS, side, defines: flat})};
}

// A sphere around all vertices.
function around(parts) {
  const box = new Box3(), point = new Vector3(), center = new Vector3();
  parts.forEach(part => box.expandByObject(part));
  box.getCenter(center);
  let radius = 0;
  for (const {geometry: {attributes: {position}}, matrixWorld} of parts) {
    for (let i = 0; i < position.count; i++) {
      radius = Math.max(radius, point.fromBufferAttribute(position, i).applyMatrix4(matrixWorld).distanceTo(center));
    }
  }
  return new Sphere(center, radius);
}
