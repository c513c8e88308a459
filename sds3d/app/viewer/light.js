// Surroundings that light a mesh. All are grey (r = g = b), so that a white surface is white and no colour is tinted.

import {DataTexture, DataUtils, EquirectangularReflectionMapping, HalfFloatType, LinearFilter, PMREMGenerator,
  RGBAFormat} from 'three';

const HEIGHT = 64;

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

// A picture of the surroundings, scaled so that a white matt surface is exactly white where it is lit the most.
export function environment(renderer, name) {
  const directions = [], light = LIGHTS[name];
  for (let row = 0; row < HEIGHT; row++) {  // row 0 is straight down
    for (let column = 0; column < 2 * HEIGHT; column++) {
      const elevation = Math.PI * ((row + 0.5) / HEIGHT - 0.5), turn = Math.PI * ((column + 0.5) / HEIGHT - 1);
      const level = Math.cos(elevation), at = [level * Math.cos(turn), Math.sin(elevation), level * Math.sin(turn)];
      directions.push({at, light: light(...at), area: level * (Math.PI / HEIGHT) ** 2});
    }
  }
  const pixels = new Uint16Array(4 * directions.length), scale = 1 / brightest(directions);
  directions.forEach(({light}, i) => {
    const value = DataUtils.toHalfFloat(light * scale);
    pixels.set([value, value, value, DataUtils.toHalfFloat(1)], 4 * i);
  });
  const picture = new DataTexture(pixels, 2 * HEIGHT, HEIGHT, RGBAFormat, HalfFloatType, EquirectangularReflectionMapping);
  picture.minFilter = picture.magFilter = LinearFilter;
  picture.needsUpdate = true;
  const generator = new PMREMGenerator(renderer), made = generator.fromEquirectangular(picture);
  generator.dispose();
  picture.dispose();
  return made;
}

// The most that a white matt surface reflects, over its orientations.
function brightest(directions) {
  let most = 0;
  for (let i = 0; i < directions.length; i += 37) {
    const [a, b, c] = directions[i].at;
    let sum = 0;
    for (const {at: [x, y, z], light, area} of directions) sum += Math.max(0, a * x + b * y + c * z) * light * area;
    most = Math.max(most, sum / Math.PI);
  }
  return most;
}
