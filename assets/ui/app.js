// Every page has fresh times and keys.
import { tick } from './show.js';

let beat = 0;
tick(true);
setInterval(() => document.hidden || tick(beat++ % 5 === 0), 1000);
document.addEventListener('visibilitychange', () => document.hidden || tick(true));

// Calls `pressed` with the keys that are pressed outside fields.
export function keys(pressed) {
  document.addEventListener('keydown', (event) => {
    const typing = document.activeElement?.closest('input:not([type=checkbox]), textarea');
    if (!typing && !event.ctrlKey && !event.metaKey && !event.altKey) pressed(event.key, event);
  });
}

keys((key, event) => {
  const search = document.querySelector('#needle, #search');
  if (key === '/' && search) { event.preventDefault(); search.focus(); search.select(); }
  else if (key === '?') location.href = '/ui/help';
  else if (key === 'n') location.href = '/ui/jobs/new';
});

document.getElementById('faults')?.focus();
