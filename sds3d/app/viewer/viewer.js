// The viewer of finished objects: one for meshes (.glb) and splats (.splat). Its controls need no other part of the page.

import {LinearToneMapping, Scene, WebGLRenderer} from 'three';
import {environment, LIGHTS, panorama, panoramaFile} from './light.js';
import {gltfMesh} from './meshes.js';
import {Orbit} from './orbit.js';
import {iconButton, make, styled, toggleFull} from './page.js';
import {splatMesh} from './splats.js';

export {LiveView} from './live.js';

const SHADINGS = ['Lit', 'Unlit', 'Normals'];
const KEYS = 'drag or arrow keys turn, scroll or + and − zoom, 0 resets, F fits';

export class Viewer {
  // element: an empty element of the page, which the viewer fills.
  constructor(element) {
    styled(document);
    this.shading = 'Lit';
    this.light = 'Studio';
    this.own = {};  // panoramas of the visitor's, by the names of their files
    this.wires = false;
    this.stops = 0;
    this.canvas = make('canvas', {tabindex: 0, role: 'img', 'aria-label': 'The object in 3D'});
    this.message = make('p', {role: 'status'});
    this.root = make('div', {class: 'sv'}, make('div', {class: 'sv-stage'}, this.canvas, this.message, this.buttons()), this.bar());
    this.root.addEventListener('keydown', event => event.key === 'Escape' && this.root.classList.remove('sv-full'));
    element.replaceChildren(this.root);
    this.scene = new Scene();
    try {
      this.renderer = new WebGLRenderer({canvas: this.canvas, alpha: true, antialias: true, context: this.context()});
    } catch {
      this.renderer = null;
      return;
    }
    this.renderer.toneMapping = LinearToneMapping;  // a factor alone, without a curve: colours are those of the file
    this.orbit = new Orbit(this.canvas, () => this.ask());
    this.canvas.addEventListener('webglcontextrestored', () => this.surroundings && this.relight());
    new ResizeObserver(() => this.resize()).observe(this.canvas);
  }

  context() {
    const context = this.canvas.getContext('webgl2', {alpha: true, antialias: true, premultipliedAlpha: true});
    if (!context) throw new Error('no WebGL 2');
    return context;
  }

  buttons() {
    return make('div', {class: 'sv-icons', role: 'group', 'aria-label': 'View'},
      iconButton('reset', 'Reset the view', () => this.orbit.reset()),
      iconButton('fit', 'Fit the object', () => this.orbit.fit()),
      iconButton('picture', 'Save a picture', () => this.save()),
      iconButton('full', 'Full screen', () => toggleFull(this.root)));
  }

  bar() {
    this.shadings = SHADINGS.map(name => make('button', {type: 'button', onclick: () => this.shade(name)}, name));
    this.wireframe = make('button', {type: 'button', onclick: () => this.wire(!this.wires)}, 'Wireframe');
    this.lights = make('select', {onchange: event => { this.light = event.target.value; this.relight(); }},
      ...Object.keys(LIGHTS).map(name => make('option', {}, name)));
    this.turn = make('input', {type: 'range', min: -180, max: 180, step: 5, value: 0,
      oninput: event => this.turnLight(Number(event.target.value))});
    this.picker = make('input', {type: 'file', accept: '.hdr', hidden: true, onchange: event => this.take(event.target)});
    this.exposure = make('input', {type: 'range', min: -2, max: 2, step: 0.25, value: 0,
      oninput: event => this.expose(Number(event.target.value))});
    this.ofMeshes = [make('div', {class: 'sv-group', role: 'group', 'aria-label': 'Shading'}, ...this.shadings), this.wireframe,
      make('label', {}, 'Light', this.lights),
      make('button', {type: 'button', title: 'Light of a panorama of yours (.hdr)', onclick: () => this.picker.click()}, 'Your light …'),
      make('label', {}, 'Turn', this.turn)];
    this.controls = make('div', {class: 'sv-bar'}, ...this.ofMeshes, make('label', {}, 'Exposure', this.exposure), this.picker);
    return this.controls;
  }

  // Shows a file. file: {url, name, poster}, or null for an empty viewer. url: "" if there is no file. poster: address of a
  // picture for browsers without WebGL.
  async show(file) {
    this.shown?.dispose();
    this.scene.clear();
    this.shown = null;
    this.file = file;
    delete this.canvas.dataset.drawn;
    this.say(file ? 'Loading …' : '');
    if (!file) return this.draw();
    if (!file.url) return this.say('There is nothing to show: the run wrote no .glb or .splat file.');
    if (!this.renderer) return this.fallBack(file);
    try {
      const answer = await fetch(file.url);
      if (!answer.ok) throw new Error('the file no longer exists');
      const bytes = await answer.arrayBuffer();
      const made = /\.splat$/.test(new URL(file.url, document.baseURI).pathname) ? splatMesh(bytes) : await gltfMesh(bytes);
      if (this.file !== file) return made.dispose();  // another one was chosen meanwhile
      this.open(made, file);
    } catch (error) {
      if (this.file === file) this.say(`The object cannot be shown: ${error.message}`);
    }
  }

  open(made, {name}) {
    this.shown = made;
    this.scene.add(made.object);
    for (const control of this.ofMeshes) control.hidden = !made.shade;
    if (made.shade && !this.surroundings) this.relight();  // only now: without a GPU this takes seconds
    this.canvas.setAttribute('aria-label', `${name} in 3D: ${KEYS}`);
    this.say('');
    this.shade(this.shading);
    this.wire(this.wires);
    this.expose(this.stops);
    this.orbit.surround(made.sphere.center, made.sphere.radius);
    this.resize();
    this.orbit.reset();
    this.draw();
  }

  fallBack({name, poster}) {
    this.say('This browser shows no 3D (WebGL 2 is off or missing); here is the object from all sides.');
    this.root.classList.add('sv-flat');
    this.canvas.replaceWith(this.still ??= make('img'));
    Object.assign(this.still, {src: poster, alt: `${name} from all sides`});
  }

  say(text) {
    this.message.textContent = text;
  }

  shade(name) {
    this.shading = name;
    this.shadings.forEach((button, i) => button.setAttribute('aria-pressed', SHADINGS[i] === name));
    this.shown?.shade?.(name);
    this.ask();
  }

  wire(on) {
    this.wires = on;
    this.wireframe.setAttribute('aria-pressed', on);
    this.shown?.wire?.(on);
    this.ask();
  }

  relight() {
    this.surroundings?.dispose();
    this.surroundings = environment(this.renderer, this.own[this.light] ?? panorama(this.light));
    this.scene.environment = this.surroundings.texture;
    this.ask();
  }

  // degrees: counter-clockwise seen from above.
  turnLight(degrees) {
    this.turn.setAttribute('aria-valuetext', `${degrees} degrees`);
    this.scene.environmentRotation.y = degrees * Math.PI / 180;
    this.ask();
  }

  // Lights the object by the panorama that was chosen.
  async take(input) {
    const [file] = input.files;
    input.value = '';
    if (!file) return;
    try {
      this.own[file.name] = await panoramaFile(file);
    } catch (error) {
      return this.say(`${file.name} cannot be used as light: ${error.message || error}`);
    }
    this.say('');
    if (![...this.lights.options].some(({value}) => value === file.name)) this.lights.append(make('option', {}, file.name));
    this.lights.value = this.light = file.name;
    this.relight();
  }

  // stops: each doubles the light.
  expose(stops) {
    this.stops = stops;
    this.exposure.setAttribute('aria-valuetext', `${stops} stops`);
    if (this.renderer) this.renderer.toneMappingExposure = 2 ** stops;
    if (this.shown?.exposure) this.shown.exposure.value = 2 ** stops;
    this.ask();
  }

  resize() {
    const {clientWidth: width, clientHeight: height} = this.canvas;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio || 1, 2));
    this.renderer.setSize(width, height, false);
    this.orbit.resize(width, height);
    this.draw();  // at once: a canvas is empty after a change of its size
  }

  ask() {
    if (this.renderer) this.asked ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    if (!this.renderer) return;
    cancelAnimationFrame(this.asked);
    this.asked = null;
    if (this.orbit.update()) this.ask();
    this.orbit.camera.updateMatrixWorld();
    this.shown?.prepare?.(this.renderer, this.orbit.camera);
    this.renderer.render(this.scene, this.orbit.camera);
    if (!this.shown || !this.canvas.clientWidth) return;
    const {azimuth, elevation, distance} = this.orbit.view;
    Object.assign(this.canvas.dataset, {drawn: this.shown.count, view: [azimuth, elevation, distance].map(v => v.toFixed(3)).join(' ')});
  }

  save() {
    if (!this.shown) return;
    this.draw();
    this.canvas.toBlob(blob => {
      const link = make('a', {href: URL.createObjectURL(blob), download: `${this.file.name}.png`});
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    });
  }
}
