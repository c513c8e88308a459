// Elements of the page.

import css from './viewer.css';

// Makes an element. Attributes that start with "on" are handlers; those that are false are left out.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element[name] = value;
    else if (value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children);
  return element;
}

const PATHS = {
  reset: 'M4 12a8 8 0 1 0 2.5-5.8M4 4v4.5h4.5',
  fit: 'M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5M9 9h6v6H9z',
  picture: 'M4 8h4l1.5-2.5h5L16 8h4v11H4zM12 16.5a3.2 3.2 0 1 0 0-6.4 3.2 3.2 0 0 0 0 6.4z',
  full: 'M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5',
};

// A button with a picture. Its name is read aloud and shown when the mouse rests on it.
export function iconButton(icon, name, onclick) {
  const button = make('button', {type: 'button', class: 'sv-icon', 'aria-label': name, title: name, onclick});
  button.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${PATHS[icon]}"/></svg>`;
  return button;
}

export function styled(document) {
  if (document.getElementById('sv-style')) return;
  document.head.append(make('style', {id: 'sv-style'}, css));
}

// Lets an element fill the screen, or ends that; where the browser cannot (iPhone), it fills the window.
export async function toggleFull(element) {
  if (document.fullscreenElement) return document.exitFullscreen();
  if (element.classList.toggle('sv-full', !element.classList.contains('sv-full') && !element.requestFullscreen)) return;
  return element.requestFullscreen?.();
}
