// Draws a .splat file: sorted Gaussians, blended back to front (EWA splatting). It redraws only when the view changes.
// The page provides `element`, `props` and `watch`. The value is the address of the file, or empty.

const VERTEX = `#version 300 es
precision highp float;
uniform highp sampler2D data;
uniform mat4 view;
uniform vec2 size, nearFar;
uniform float focal;
in vec2 corner;
in uint index;
out vec4 color;
out vec2 at;
vec4 texel(int k) { int i = int(index) * 4 + k; return texelFetch(data, ivec2(i % 1024, i / 1024), 0); }
void main() {
  vec3 c = (view * vec4(texel(0).xyz, 1.0)).xyz;  // the camera looks along -z
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
  if (c.z > -nearFar.x) return;
  vec4 a = texel(1), b = texel(2);
  mat3 spread = mat3(a.x, a.y, a.z, a.y, a.w, b.x, a.z, b.x, b.y);
  float f = focal / -c.z, g = focal / (c.z * c.z);
  mat3 jacobian = mat3(f, 0.0, 0.0, 0.0, f, 0.0, g * c.x, g * c.y, 0.0);
  mat3 t = jacobian * mat3(view);
  mat3 flat_ = t * spread * transpose(t);  // pixels squared
  float p = flat_[0][0] + 0.3, q = flat_[1][1] + 0.3, r = flat_[0][1];
  float middle = 0.5 * (p + q), radius = length(vec2(0.5 * (p - q), r));
  vec2 axis = abs(r) < 1e-6 ? (p >= q ? vec2(1.0, 0.0) : vec2(0.0, 1.0)) : normalize(vec2(r, middle + radius - p));
  vec2 lengths = sqrt(max(vec2(middle + radius, middle - radius), 0.1));
  at = 3.0 * corner;
  vec2 offset = at.x * lengths.x * axis + at.y * lengths.y * vec2(-axis.y, axis.x);
  color = texel(3);
  gl_Position = vec4(2.0 * (focal * c.xy / -c.z + offset) / size, 0.0, 1.0);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec4 color;
in vec2 at;
out vec4 result;
void main() {
  float alpha = color.a * exp(-0.5 * dot(at, at));
  if (alpha < 0.004) discard;
  result = vec4(color.rgb * alpha, alpha);
}`;
const WIDTH = 1024;  // texels per row

// 32 bytes per splat: position, scale, RGBA, quaternion (w, x, y, z). The file is rotated by 180 degrees about z.
function unpack(bytes) {
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

function order(splats, view, into) {  // farthest first, by a counting sort of 16 bits
  const {count, texels} = splats, depths = new Float32Array(count), starts = new Uint32Array(65537);
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

function program(gl) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made) || 'WebGL failed');
  return made;
}

function attribute(gl, shader, name, data, size, divisor) {
  const buffer = gl.createBuffer(), place = gl.getAttribLocation(shader, name);
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
  gl.enableVertexAttribArray(place);
  if (data instanceof Uint32Array) gl.vertexAttribIPointer(place, size, gl.UNSIGNED_INT, 0, 0);
  else gl.vertexAttribPointer(place, size, gl.FLOAT, false, 0, 0);
  gl.vertexAttribDivisor(place, divisor);
  return buffer;
}

function viewer(canvas, bytes) {
  const gl = canvas.getContext('webgl2', {alpha: false, antialias: false});
  if (!gl) throw new Error('this browser does not support WebGL 2');
  const splats = unpack(bytes), shader = program(gl), sorted = new Uint32Array(splats.count);
  gl.useProgram(shader);
  attribute(gl, shader, 'corner', new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), 2, 0);
  const indices = attribute(gl, shader, 'index', sorted, 1, 1);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA32F, WIDTH, splats.rows, 0, gl.RGBA, gl.FLOAT, splats.texels);
  for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, filter, gl.NEAREST);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  const place = name => gl.getUniformLocation(shader, name);
  let azimuth = 0.45, elevation = 0.25, distance = 1.7, asked = false;  // radians and metres; the front faces +Z

  function draw() {
    asked = false;
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth * ratio, height = canvas.clientHeight * ratio;
    if (!width || !height || gl.isContextLost()) return;
    canvas.width = width;
    canvas.height = height;
    const [sa, ca, se, ce] = [Math.sin(azimuth), Math.cos(azimuth), Math.sin(elevation), Math.cos(elevation)];
    const view = [ca, -sa * se, sa * ce, 0, 0, ce, se, 0, -sa, -ca * se, ca * ce, 0, 0, 0, -distance, 1];  // column by column
    order(splats, view, sorted);
    gl.viewport(0, 0, width, height);
    gl.clearColor(0.945, 0.961, 0.976, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.bindBuffer(gl.ARRAY_BUFFER, indices);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, sorted);
    gl.uniformMatrix4fv(place('view'), false, view);
    gl.uniform2f(place('size'), width, height);
    gl.uniform2f(place('nearFar'), 0.05, 100);
    gl.uniform1f(place('focal'), 1.2 * Math.min(width, height));
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, splats.count);
    canvas.dataset.drawn = splats.count;
  }
  function move(by) {
    azimuth -= (by.x || 0) * 0.01;
    elevation = Math.min(1.5, Math.max(-1.5, elevation + (by.y || 0) * 0.01));
    distance = Math.min(8, Math.max(0.4, distance * (by.zoom || 1)));
    if (!asked) requestAnimationFrame(draw);
    asked = true;
  }
  const fingers = new Map();
  canvas.onpointerdown = event => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
  };
  canvas.onpointerup = canvas.onpointercancel = event => fingers.delete(event.pointerId);
  canvas.onpointermove = event => {
    const before = fingers.get(event.pointerId), now = [event.clientX, event.clientY];
    if (!before) return;
    const other = [...fingers].find(([id]) => id !== event.pointerId);
    const apart = point => Math.hypot(point[0] - other[1][0], point[1] - other[1][1]);
    move(other ? {zoom: apart(before) / Math.max(apart(now), 1)} : {x: now[0] - before[0], y: now[1] - before[1]});
    fingers.set(event.pointerId, now);
  };
  canvas.onwheel = event => {
    event.preventDefault();
    move({zoom: Math.exp(event.deltaY * 0.001)});
  };
  canvas.onkeydown = event => {
    const steps = {ArrowLeft: {x: 10}, ArrowRight: {x: -10}, ArrowUp: {y: 10}, ArrowDown: {y: -10},
      '+': {zoom: 0.9}, '-': {zoom: 1.1}};
    if (!steps[event.key]) return;
    event.preventDefault();
    move(steps[event.key]);
  };
  new ResizeObserver(() => move({})).observe(canvas);
  draw();
}

async function show() {
  const address = props.value, canvas = element.querySelector('canvas'), message = element.querySelector('p');
  if (!canvas || !address || canvas.dataset.shown === address) return;
  const fresh = canvas.cloneNode();  // a new canvas for each file, without state of the previous one
  delete fresh.dataset.drawn;
  fresh.dataset.shown = address;
  canvas.replaceWith(fresh);
  message.textContent = '';
  try {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error('the file no longer exists');
    viewer(fresh, await answer.arrayBuffer());
  } catch (error) {
    message.textContent = `The splats cannot be shown: ${error.message}`;
  }
}
watch('value', show);
show();
