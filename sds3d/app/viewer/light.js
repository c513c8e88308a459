// Surroundings that light a mesh. Those built in are grey (r = g = b), so that a white surface is white and no colour is
// tinted. Others are panoramas of the visitor's.

import {DataTexture, DataUtils, EquirectangularReflectionMapping, FloatType, HalfFloatType, LinearFilter, PMREMGenerator,
  RGBAFormat} from 'three';
import {HDRLoader} from 'three/addons/loaders/HDRLoader.js';

const HEIGHT = 64, MOST_ROWS = 512, LARGEST = 65504, MOST_BYTES = 256e6;

// Radiance that comes from a direction (x right, y up, z to the front); its scale does not matter.
export const LIGHTS = {
  Studio: (x, y, z) => 0.95 + 0.35 * y + 0.1 * z + 1.6 * lobe(x, y, z, [-0.3, 0.62, 0.72], 6)
    + 0.5 * lobe(x, y, z, [0.85, 0.3, 0.3], 12),
  Even: () => 1,
  Side: (x, y, z) => 0.25 + 4 * lobe(x, y, z, [-0.85, 0.45, 0.25], 8),
};

function lobe(x, y, z, [a, b, c], power) {
  return Math.max(0, (x * a + y * b + z * c) / Math.hypot(a, b, c)) ** power;
}

// The panorama of a built-in light: {width, height, colors}, with colors of RGB from the lowest row to the highest. Its middle
// column is at +X, and the column a quarter of the width to its right at +Z.
export function panorama(name) {
  const colors = new Float32Array(3 * 2 * HEIGHT * HEIGHT);
  directions(2 * HEIGHT, HEIGHT).forEach(({at}, i) => colors.fill(LIGHTS[name](...at), 3 * i, 3 * i + 3));
  return {width: 2 * HEIGHT, height: HEIGHT, colors};
}

// The panorama in a Radiance file (.hdr). The picture's middle is in front of the object, at +Z.
export async function panoramaFile(file) {
  if (file.size > MOST_BYTES) throw new Error('it is larger than 256 MB');
  const {width, height, data} = new HDRLoader().setDataType(FloatType).parse(await file.arrayBuffer());
  if (width !== 2 * height) throw new Error(`it has ${width} x ${height} pixels, but a panorama is twice as wide as high`);
  const rows = Math.min(MOST_ROWS, height + height % 2);  // even, so that a quarter of the width is whole
  const small = reduced({width, height, colors: data, channels: 4}, rows), colors = new Float32Array(small.colors.length);
  for (let row = 0; row < rows; row++) {  // the file begins with the highest row
    for (let column = 0; column < 2 * rows; column++) {
      const from = 3 * (2 * rows * row + column), to = 3 * (2 * rows * (rows - 1 - row) + (column + rows / 2) % (2 * rows));
      colors.set(small.colors.subarray(from, from + 3), to);
    }
  }
  return {width: 2 * rows, height: rows, colors};
}

// A panorama of another number of rows. Each pixel is the mean over its solid angle; those on an edge are divided.
function reduced({width, height, colors, channels = 3}, rows) {
  const down = shares(height, rows, x => -Math.cos(Math.PI * x)), across = shares(width, 2 * rows, x => x);
  const made = new Float32Array(3 * 2 * rows * rows);
  down.forEach((above, row) => across.forEach((beside, column) => {
    const to = 3 * (2 * rows * row + column);
    for (const [y, high] of above) {
      for (const [x, wide] of beside) {
        const from = channels * (width * y + x);
        for (let k = 0; k < 3; k++) made[to + k] += high * wide * Math.min(colors[from + k], LARGEST);
      }
    }
  }));
  return {width: 2 * rows, height: rows, colors: made};
}

// Of n pixels in a line, those that are in each of m others on the same line: [index, share]. edge: where an edge is whose
// place in the picture is 0 to 1.
function shares(n, m, edge) {
  return Array.from({length: m}, (_, i) => {
    const begin = i * n / m, end = (i + 1) * n / m, length = edge(end / n) - edge(begin / n), found = [];
    for (let k = Math.floor(begin); k < end; k++) {
      found.push([k, (edge(Math.min(end, k + 1) / n) - edge(Math.max(begin, k) / n)) / length]);
    }
    return found;
  });
}

// The light of a panorama for three.js, scaled so that a white matt surface is exactly white where it is lit the most.
export function environment(renderer, {width, height, colors}) {
  const pixels = new Uint16Array(4 * width * height), scale = 1 / brightest({width, height, colors});
  for (let i = 0; i < width * height; i++) {
    for (let k = 0; k < 3; k++) pixels[4 * i + k] = DataUtils.toHalfFloat(Math.min(colors[3 * i + k] * scale, LARGEST));
    pixels[4 * i + 3] = DataUtils.toHalfFloat(1);
  }
  const picture = new DataTexture(pixels, width, height, RGBAFormat, HalfFloatType, EquirectangularReflectionMapping);
  picture.minFilter = picture.magFilter = LinearFilter;
  picture.needsUpdate = true;
  const generator = new PMREMGenerator(renderer), made = generator.fromEquirectangular(picture);
  generator.dispose();
  picture.dispose();
  return made;
}

// The directions of a panorama's pixels, with the area of each on the sphere.
function directions(width, height) {
  const found = [];
  for (let row = 0; row < height; row++) {  // row 0 is straight down
    for (let column = 0; column < width; column++) {
      const elevation = Math.PI * ((row + 0.5) / height - 0.5), turn = Math.PI * (2 * (column + 0.5) / width - 1);
      const level = Math.cos(elevation), at = [level * Math.cos(turn), Math.sin(elevation), level * Math.sin(turn)];
      found.push({at, area: level * 2 * Math.PI ** 2 / (width * height)});
    }
  }
  return found;
}

// The most that a white matt surface reflects, over its orientations, in the brightest of the three colours.
function brightest(whole) {
  const {width, height, colors: light} = reduced(whole, Math.min(HEIGHT, whole.height)), places = directions(width, height);
  let most = 1e-6;
  for (let i = 0; i < places.length; i += 37) {
    const [a, b, c] = places[i].at, sums = [0, 0, 0];
    places.forEach(({at: [x, y, z], area}, j) => {
      const weight = Math.max(0, a * x + b * y + c * z) * area;
      if (weight) for (let k = 0; k < 3; k++) sums[k] += weight * light[3 * j + k];
    });
    most = Math.max(most, ...sums.map(sum => sum / Math.PI));
  }
  return most;
}
