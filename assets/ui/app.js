// What every page has: fresh times, the theme, keys.
import { tick } from './show.js';

let beat = 0;
tick(true);
setInterval(() => { if (!document.hidden) tick(beat++ % 5 === 0); }, 1000);
document.addEventListener('visibilitychange', () => document.hidden || tick(true));

document.getElementById('theme').addEventListener('click', (event) => {
  event.preventDefault();
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  const theme = root.dataset.theme = dark ? 'light' : 'dark';
  document.cookie = `labctl-theme=${theme}; path=/; max-age=31536000; samesite=lax`;
  const back = dark ? 'dark' : 'light';
  event.currentTarget.value = back;
  event.currentTarget.querySelector('.unseen').textContent = `Change to the ${back} theme`;
});

// The help page as a dialog, so that one does not lose the place.
async function help() {
  let dialog = document.querySelector('dialog');
  if (!dialog) {
    const page = await (await fetch('/ui/help')).text();
    dialog = document.createElement('dialog');
    const close = Object.assign(document.createElement('button'), { textContent: 'Close' });
    close.addEventListener('click', () => dialog.close());
    dialog.append(new DOMParser().parseFromString(page, 'text/html').querySelector('main > *'), close);
    dialog.setAttribute('aria-label', 'Help');
    dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
    document.body.append(dialog);
  }
  if (!dialog.open) dialog.showModal();
}
document.getElementById('help').addEventListener('click', (event) => { event.preventDefault(); help(); });

export const typing = () => document.activeElement?.closest('input:not([type=checkbox]), textarea, select, dialog');

document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) event.target.form?.querySelector('.primary')?.click();
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'Escape' && typing() && event.target.type === 'search' && !event.target.value) event.target.blur();
  if (typing()) return;
  if (event.key === '/') {
    const search = document.querySelector('#needle, #search');
    if (search) { event.preventDefault(); search.focus(); search.select(); }
  } else if (event.key === '?') help();
  else if (event.key === 'n') location.href = '/ui/jobs/new';
});

document.getElementById('faults')?.focus();
