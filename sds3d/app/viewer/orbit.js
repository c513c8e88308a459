// A camera that orbits an object: by mouse, touch and keyboard.

import {PerspectiveCamera, Spherical, Vector3} from 'three';
import {OrbitControls} from 'three/addons/controls/OrbitControls.js';

export const FIELD = 30;  // degrees, of the shorter side of the picture
const DEGREE = Math.PI / 180;
const HOME = {azimuth: 35, elevation: 20};  // three-quarter view; at azimuth 0 one sees the front
const KEY_TURN = 10 * DEGREE, KEY_ZOOM = 0.85;

export class Orbit {
  // surface: the element that is dragged. moved: called after each change of the view.
  constructor(surface, moved, {pan = true} = {}) {
    this.camera = new PerspectiveCamera(FIELD, 1);
    this.controls = new OrbitControls(this.camera, surface);
    this.controls.enableDamping = !window.matchMedia('(prefers-reduced-motion: reduce)').matches;
    this.controls.dampingFactor = 0.2;
    this.controls.enablePan = pan;
    this.controls.addEventListener('change', moved);
    surface.addEventListener('keydown', event => this.press(event));
    this.surround(new Vector3(), 0.5);
  }

  // Sets the sphere that `fit` and `reset` show.
  surround(center, radius) {
    this.center = center;
    this.radius = Math.max(radius, 1e-6);
    this.controls.minDistance = 0.3 * this.radius;
    this.controls.maxDistance = 20 * this.radius;
  }

  // Sets the shape of the picture; the object stays whole in a narrow one.
  resize(width, height) {
    const aspect = width / height, half = Math.tan(FIELD / 2 * DEGREE);
    this.camera.aspect = aspect;
    this.camera.fov = 2 * Math.atan(aspect < 1 ? half / aspect : half) / DEGREE;
    this.camera.updateProjectionMatrix();
  }

  place(azimuth, elevation, distance, target) {
    const damped = this.controls.enableDamping;
    this.controls.enableDamping = false;  // an update without it ends a turn that is still slowing down
    this.controls.update();
    this.controls.target.copy(target);
    const at = new Spherical(distance, (90 - elevation) * DEGREE, azimuth * DEGREE);
    this.camera.position.setFromSpherical(at).add(target);
    this.controls.update();
    this.controls.enableDamping = damped;
  }

  get distanceToFit() {
    return 1.08 * this.radius / Math.sin(FIELD / 2 * DEGREE);
  }

  reset() {
    this.place(HOME.azimuth, HOME.elevation, this.distanceToFit, this.center);
  }

  // Shows the whole object from the present side.
  fit() {
    const {azimuth, elevation} = this.view;
    this.place(azimuth, elevation, this.distanceToFit, this.center);
  }

  get view() {
    return {
      azimuth: this.controls.getAzimuthalAngle() / DEGREE,
      elevation: 90 - this.controls.getPolarAngle() / DEGREE,
      distance: this.controls.getDistance(),
    };
  }

  // Moves on; returns whether the view still moves.
  update() {
    const moving = this.controls.update(), distance = this.controls.getDistance();
    this.camera.near = Math.max(distance - 4 * this.radius, 0.01 * this.radius);
    this.camera.far = distance + 8 * this.radius;
    this.camera.updateProjectionMatrix();
    return moving;
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const controls = this.controls, moves = {
      ArrowLeft: () => controls.rotateLeft(KEY_TURN),
      ArrowRight: () => controls.rotateLeft(-KEY_TURN),
      ArrowUp: () => controls.rotateUp(KEY_TURN),
      ArrowDown: () => controls.rotateUp(-KEY_TURN),
      '+': () => controls.dollyIn(KEY_ZOOM),
      '=': () => controls.dollyIn(KEY_ZOOM),
      '-': () => controls.dollyOut(KEY_ZOOM),
      0: () => this.reset(),
      Home: () => this.reset(),
      f: () => this.fit(),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  }
}
