// The object of a run that is under way: the run draws it, this asks for the view. It needs no WebGL.

import {Vector3} from 'three';
import {Orbit} from './orbit.js';
import {iconButton, make, styled, toggleFull} from './page.js';

const TURNING = 200, RESTING = 1000;  // milliseconds between questions, while the view changes and otherwise
const RADIUS = 0.5;  // metres; what is made fits into a cube of 1 m

export class LiveView {
  // look: given {run, visitor, azimuth, elevation, distance, seen}, answers {picture, seen}; picture is empty if there is
  // none that is newer than `seen`.
  constructor(element, look) {
    styled(document);
    this.look = look;
    this.visitor = Array.from(crypto.getRandomValues(new Uint32Array(4)), v => v.toString(16)).join('');
    this.picture = make('img', {alt: '', draggable: 'false', hidden: true});
    this.message = make('p', {role: 'status'}, 'The first picture is being drawn …');
    this.surface = make('div', {class: 'sv-surface', tabindex: 0, role: 'img',
      'aria-label': 'The object so far: drag or arrow keys turn, scroll or + and − zoom, 0 resets'}, this.picture);
    this.root = make('div', {class: 'sv'}, make('div', {class: 'sv-stage'}, this.surface, this.message, make('div',
      {class: 'sv-icons', role: 'group', 'aria-label': 'View'},
      iconButton('reset', 'Reset the view', () => this.orbit.reset()),
      iconButton('full', 'Full screen', () => toggleFull(this.root)))));
    this.root.addEventListener('keydown', event => event.key === 'Escape' && this.root.classList.remove('sv-full'));
    element.replaceChildren(this.root);
    this.orbit = new Orbit(this.surface, () => this.turn(), {pan: false});
    this.orbit.surround(new Vector3(), RADIUS);
    Object.assign(this.orbit.controls, {minDistance: 1, maxDistance: 4});
    this.orbit.reset();
  }

  // Follows a run; an empty name ends that.
  follow(run) {
    if (run === this.run) return;
    this.run = run;
    this.seen = '';
    this.picture.hidden = true;
    this.message.hidden = false;
    delete this.surface.dataset.run;
    this.orbit.reset();
    this.wake?.();
    if (!this.asking) this.ask();
  }

  turn() {
    this.turned = performance.now();
    this.moving ??= requestAnimationFrame(() => {
      this.moving = null;
      this.orbit.update();
    });
    this.wake?.();
  }

  async ask() {
    this.asking = true;
    while (this.run && this.root.isConnected) {
      if (this.surface.clientWidth && !document.hidden) await this.once(this.run);
      const turning = performance.now() - this.turned < RESTING;
      await new Promise(done => setTimeout(done, TURNING));
      if (turning || !this.run) continue;
      await new Promise(done => {
        this.wake = done;
        setTimeout(done, RESTING - TURNING);
      });
      this.wake = null;
    }
    this.asking = false;
  }

  async once(run) {
    const {azimuth, elevation, distance} = this.orbit.view;
    try {
      const {picture, seen} = await this.look({run, visitor: this.visitor, seen: this.seen, azimuth, elevation, distance});
      if (!picture || run !== this.run) return;
      this.picture.src = picture;
      this.picture.hidden = false;
      this.message.hidden = true;
      this.seen = seen;
      Object.assign(this.surface.dataset, {shown: seen, run});
    } catch {
      // The server is busy or away: it is asked again.
    }
  }
}
