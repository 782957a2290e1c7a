// A stream of server-sent events that comes back after a break and says how it is.
//
// EventSource hands events on singly and hides why it stopped; a long log wants batches.
import { server } from './show.js';

const SILENCE = 45000; // The server says something every 15 s.
const HIDDEN = 20000; // A tab that nobody sees gives its connection back after this.

// `batch(events)` gets [{event, data}]; `state(word, text)` gets how the stream is, for programs and for people.
export function stream(url, { batch, state, last = '' }) {
  let retry = 1000, failures = 0, abort, timer, hider, over = false;

  async function open() {
    clearTimeout(timer);
    timer = abort = undefined;
    if (over || document.hidden) return;
    const mine = abort = new AbortController();
    let alarm;
    const alive = () => { clearTimeout(alarm); alarm = setTimeout(() => mine.abort(), SILENCE); };
    state('connecting', 'Connecting…');
    let least = 0;
    try {
      alive();
      const headers = { accept: 'text/event-stream', ...(last && { 'last-event-id': last }) };
      const response = await fetch(origin + url, { headers, signal: mine.signal, cache: 'no-store' });
      server(response.headers.get('date'));
      if (response.ok) {
        failures = 0;
        state('live', 'Live');
        await read(response.body, alive);
      } else if (response.status < 500 && response.status !== 429) {
        over = true;
        state('refused', 'Not live: load the page again');
      } else {
        least = 1000 * (response.headers.get('retry-after') || 0);
      }
    } catch { /* The connection broke: it is opened again below. */ }
    clearTimeout(alarm);
    if (over || mine !== abort || document.hidden) return;
    const wait = Math.max(least, Math.min(30000, retry * 2 ** failures++) * (0.75 + Math.random() / 2));
    state('waiting', `Connection lost; again in ${Math.ceil(wait / 1000)} s`);
    timer = setTimeout(open, wait);
  }

  async function read(body, alive) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      const blocks = (rest + value).split('\n\n');
      rest = blocks.pop();
      const events = [];
      for (const block of blocks) {
        let event = 'message', data = '';
        for (const line of block.split('\n')) {
          if (line.startsWith('data: ')) data += line.slice(6);
          else if (line.startsWith('event: ')) event = line.slice(7);
          else if (line.startsWith('id: ')) last = line.slice(4);
          else if (line.startsWith('retry: ')) retry = +line.slice(7) || retry;
        }
        if (data) events.push({ event, data: JSON.parse(data) });
      }
      if (events.length) batch(events);
      if (over) { reader.cancel().catch(() => {}); return; }
    }
  }

  document.addEventListener('visibilitychange', () => {
    clearTimeout(hider);
    if (document.hidden) hider = setTimeout(() => abort?.abort(), HIDDEN);
    else if (!abort || abort.signal.aborted) open();
  });
  open();
  return { end() { over = true; abort?.abort(); state('ended'); } };
}
