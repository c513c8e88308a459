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
  const step = Math.ceil(height / MOST_ROWS), rows = Math.floor(height / step);
  const colors = new Float32Array(3 * 2 * rows * rows);
  for (let row = 0; row < rows; row++) {  // the file begins with the highest row
    for (let column = 0; column < 2 * rows; column++) {
      const to = 3 * ((rows - 1 - row) * 2 * rows + (column + rows / 2) % (2 * rows));
      for (let i = 0; i < step * step; i++) {
        const from = 4 * ((row * step + Math.floor(i / step)) * width + column * step + i % step);
        for (let k = 0; k < 3; k++) colors[to + k] += Math.min(data[from + k], LARGEST) / step ** 2;
      }
    }
  }
  return {width: 2 * rows, height: rows, colors};
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
function brightest({width, height, colors}) {
  const step = Math.ceil(height / HEIGHT), rows = Math.floor(height / step), light = new Float32Array(3 * 2 * rows * rows);
  for (let row = 0; row < rows * step; row++) {
    for (let column = 0; column < 2 * rows * step; column++) {
      const to = 3 * (Math.floor(row / step) * 2 * rows + Math.floor(column / step)), from = 3 * (row * width + column);
      for (let k = 0; k < 3; k++) light[to + k] += colors[from + k] / step ** 2;
    }
  }
  const places = directions(2 * rows, rows);
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
