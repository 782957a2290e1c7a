// How times and durations look; src/dashboard/page/show.rs says the same for what the server writes.

export function length(ms) {
  ms = Math.max(0, ms);
  const s = Math.floor(ms / 1000);
  const two = (n) => String(n).padStart(2, '0');
  if (s < 1) return `${Math.floor(ms)} ms`;
  if (s < 10) return `${s}.${Math.floor((ms % 1000) / 100)} s`;
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${two(Math.floor(s / 60) % 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

export function age(ms) {
  const s = Math.max(0, Math.floor((now() - ms) / 1000));
  if (s < 5) return 'just now';
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ago`;
  if (s < 2592000) return `${Math.floor(s / 86400)} d ago`;
  return new Date(ms).toISOString().slice(0, 10);
}

// This machine's clock may be wrong; the server's is what the times on the page are of.
let ahead = 0;
export const now = () => Date.now() - ahead;
export function server(date) {
  const there = Date.parse(date);
  if (there && Math.abs(Date.now() - there) > 5000) ahead = Date.now() - there;
}

export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Writes what changes by itself.
export function tick(all) {
  for (const span of document.querySelectorAll('[data-since]')) put(span, length(now() - span.dataset.since));
  if (!all) return;
  for (const time of document.querySelectorAll('time[data-ago]')) {
    const ms = Date.parse(time.dateTime);
    if (!ms) continue;
    put(time, age(ms));
    time.title = `${new Date(ms).toLocaleString()} (${time.dateTime})`;
  }
}
