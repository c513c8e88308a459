// Gaussian splats of a .splat file as a mesh of three.js: sorted and blended back to front (EWA splatting).

import {BufferAttribute, CustomBlending, DataTexture, DynamicDrawUsage, FloatType, GLSL3, InstancedBufferAttribute,
  InstancedBufferGeometry, IntType, Matrix4, Mesh, NearestFilter, OneFactor, OneMinusSrcAlphaFactor, RawShaderMaterial,
  RGBAFormat, Sphere, Vector2, Vector3} from 'three';

const WIDTH = 1024;  // texels per row; four texels per Gaussian: centre, covariance (2), colour and opacity

const VERTEX = `precision highp float;
precision highp int;
uniform highp sampler2D data;
uniform mat4 modelViewMatrix, projectionMatrix;
uniform vec2 size;
uniform float exposure;
in vec2 position;
in uint chosen;
out vec4 color;
out vec2 at;
vec4 texel(int k) { int i = int(chosen) * 4 + k; return texelFetch(data, ivec2(i % ${WIDTH}, i / ${WIDTH}), 0); }
vec3 exposed(vec3 srgb) {
  if (exposure == 1.0) return srgb;
  vec3 light = exposure * mix(srgb / 12.92, pow((srgb + 0.055) / 1.055, vec3(2.4)), step(0.04045, srgb));
  return mix(12.92 * light, 1.055 * pow(light, vec3(1.0 / 2.4)) - 0.055, step(0.0031308, light));
}
void main() {
  vec3 c = (modelViewMatrix * vec4(texel(0).xyz, 1.0)).xyz;  // the camera looks along -z
  vec4 middle = projectionMatrix * vec4(c, 1.0);
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
  if (middle.z < -middle.w) return;
  vec4 a = texel(1), b = texel(2);
  mat3 spread = mat3(a.x, a.y, a.z, a.y, a.w, b.x, a.z, b.x, b.y);
  float focal = 0.5 * size.y * projectionMatrix[1][1], f = focal / -c.z, g = focal / (c.z * c.z);
  mat3 jacobian = mat3(f, 0.0, 0.0, 0.0, f, 0.0, g * c.x, g * c.y, 0.0);
  mat3 t = jacobian * mat3(modelViewMatrix);
  mat3 flat_ = t * spread * transpose(t);  // pixels squared
  float p = flat_[0][0] + 0.3, q = flat_[1][1] + 0.3, r = flat_[0][1];
  float mean = 0.5 * (p + q), radius = length(vec2(0.5 * (p - q), r));
  vec2 axis = abs(r) < 1e-6 ? (p >= q ? vec2(1.0, 0.0) : vec2(0.0, 1.0)) : normalize(vec2(r, mean + radius - p));
  vec2 lengths = sqrt(max(vec2(mean + radius, mean - radius), 0.1));
  at = 3.0 * position;
  vec2 offset = at.x * lengths.x * axis + at.y * lengths.y * vec2(-axis.y, axis.x);
  vec4 own = texel(3);
  color = vec4(exposed(own.rgb), own.a);
  gl_Position = vec4(middle.xy / middle.w + 2.0 * offset / size, 0.0, 1.0);
}`;

const FRAGMENT = `precision highp float;
in vec4 color;
in vec2 at;
out vec4 result;
void main() {
  float alpha = color.a * exp(-0.5 * dot(at, at));
  if (alpha < 0.004) discard;
  result = vec4(color.rgb * alpha, alpha);
}`;

// 32 bytes per splat: position, scale, RGBA, quaternion (w, x, y, z). The file is rotated by 180 degrees about z.
export function unpack(bytes) {
  const count = Math.floor(bytes.byteLength / 32), floats = new Float32Array(bytes, 0, count * 8);
  const octets = new Uint8Array(bytes), rows = Math.max(1, Math.ceil((count * 4) / WIDTH));
  const texels = new Float32Array(rows * WIDTH * 4);
  for (let i = 0; i < count; i++) {
    const o = i * 16, s = floats.subarray(i * 8 + 3, i * 8 + 6);
    texels.set([-floats[i * 8], -floats[i * 8 + 1], floats[i * 8 + 2]], o);
    let [w, x, y, z] = Array.from(octets.subarray(i * 32 + 28, i * 32 + 32), v => (v - 128) / 128);
    const n = Math.hypot(w, x, y, z) || 1;
    w /= n; x /= n; y /= n; z /= n;
    const m = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), 2 * (x * y + w * z),
      1 - 2 * (x * x + z * z), 2 * (y * z - w * x), 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)];
    const v = (j, k) => [0, 1, 2].reduce((sum, l) => sum + m[3 * j + l] * m[3 * k + l] * s[l] * s[l], 0);
    texels.set([v(0, 0), v(0, 1), -v(0, 2), v(1, 1), -v(1, 2), v(2, 2)], o + 4);
    for (let k = 0; k < 4; k++) texels[o + 12 + k] = octets[i * 32 + 24 + k] / 255;
  }
  return {count, texels, rows};
}

function order({count, texels}, view, into) {  // farthest first, by a counting sort of 16 bits
  const depths = new Float32Array(count), starts = new Uint32Array(65537);
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < count; i++) {
    const d = view[2] * texels[i * 16] + view[6] * texels[i * 16 + 1] + view[10] * texels[i * 16 + 2];
    depths[i] = d;
    low = Math.min(low, d);
    high = Math.max(high, d);
  }
  const scale = 65535 / Math.max(high - low, 1e-9), keys = new Uint16Array(count);
  for (let i = 0; i < count; i++) {
    keys[i] = (depths[i] - low) * scale;
    starts[keys[i] + 1]++;
  }
  for (let k = 0; k < 65536; k++) starts[k + 1] += starts[k];
  for (let i = 0; i < count; i++) into[starts[keys[i]]++] = i;
}

// A sphere around nearly all Gaussians: stray ones do not count.
function around({count, texels}) {
  const low = new Vector3(), high = new Vector3();
  ['x', 'y', 'z'].forEach((axis, k) => {
    const along = Float32Array.from({length: count}, (_, i) => texels[i * 16 + k]).sort();
    low[axis] = along[Math.floor(0.005 * (count - 1))];
    high[axis] = along[Math.ceil(0.995 * (count - 1))];
  });
  const center = low.add(high).multiplyScalar(0.5), distances = Float32Array.from({length: count}, (_, i) =>
    Math.hypot(texels[i * 16] - center.x, texels[i * 16 + 1] - center.y, texels[i * 16 + 2] - center.z)).sort();
  return new Sphere(center, distances[Math.ceil(0.995 * (count - 1))]);
}

export function splatMesh(bytes) {
  const splats = unpack(bytes), indices = new Uint32Array(splats.count);
  if (!splats.count) throw new Error('the file holds no splats');
  const data = new DataTexture(splats.texels, WIDTH, splats.rows, RGBAFormat, FloatType);
  data.minFilter = data.magFilter = NearestFilter;
  data.needsUpdate = true;
  const index = new InstancedBufferAttribute(indices, 1);
  index.gpuType = IntType;
  index.usage = DynamicDrawUsage;
  const geometry = new InstancedBufferGeometry();
  geometry.setAttribute('position', new BufferAttribute(new Float32Array([-1, -1, 1, -1, 1, 1, -1, -1, 1, 1, -1, 1]), 2));
  geometry.setAttribute('chosen', index);
  geometry.instanceCount = splats.count;
  geometry.boundingSphere = around(splats);
  const uniforms = {data: {value: data}, size: {value: new Vector2()}, exposure: {value: 1}};
  const material = new RawShaderMaterial({
    glslVersion: GLSL3, vertexShader: VERTEX, fragmentShader: FRAGMENT, uniforms, transparent: true,
    depthTest: false, depthWrite: false, premultipliedAlpha: true, toneMapped: false,
    blending: CustomBlending, blendSrc: OneFactor, blendDst: OneMinusSrcAlphaFactor,
  });
  const mesh = new Mesh(geometry, material), view = new Matrix4();
  mesh.frustumCulled = false;
  return {object: mesh, sphere: geometry.boundingSphere, count: splats.count, exposure: uniforms.exposure,
    prepare(renderer, camera) {
      renderer.getDrawingBufferSize(uniforms.size.value);
      order(splats, view.copy(camera.matrixWorld).invert().elements, indices);
      index.needsUpdate = true;
    },
    dispose: () => [data, geometry, material].forEach(each => each.dispose())};
}
