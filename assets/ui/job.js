// A job's page: its log, of which the document has what is seen, and a head that keeps up with the job.
import { paint, plain } from './ansi.js';
import { keys } from './app.js';
import { put, tick } from './show.js';
import { stream } from './stream.js';

const $ = (id) => document.getElementById(id);
const make = (tag, className, text = '') => Object.assign(document.createElement(tag), { className, textContent: text });
const section = $('log'), job = section.dataset.job, link = $('link');
const logs = (query) => `/jobs/${job}/logs?${new URLSearchParams(query)}`;

// The lines, by number from 1, in blocks; those far from what is seen are let go.
const BLOCK = 5000, KEPT = 40, AHEAD = BLOCK / 2;
const blocks = new Map(), asked = new Map(), gaps = [];
let newest = +section.dataset.last, ended = false;

const blockOf = (number) => Math.floor((number - 1) / BLOCK);
const line = (number) => blocks.get(blockOf(number))?.[(number - 1) % BLOCK];
const lost = (number) => gaps.find(({ from, to }) => number >= from && number <= to);

function keep(entry) {
  const block = blockOf(entry.number);
  if (!blocks.has(block)) blocks.set(block, []);
  blocks.get(block)[(entry.number - 1) % BLOCK] = entry;
  if (entry.number > newest) newest = entry.number;
}

function gap(range) {
  if (!gaps.some(({ from }) => from === range.from)) gaps.push(range);
  newest = Math.max(newest, range.to);
}

// Calls `each` with lines until it returns false.
async function lines(query, each, signal) {
  const response = await fetch(origin + logs({ format: 'ndjson', ...query }), { signal });
  if (!response.ok) throw new Error(response.status);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const texts = (rest + value).split('\n');
    rest = texts.pop();
    for (const text of texts) if (each(JSON.parse(text)) === false) return reader.cancel();
  }
}

async function load(block) {
  if (performance.now() - asked.get(block) < 2000) return;
  asked.set(block, performance.now());
  const from = block * BLOCK + 1;
  try {
    await lines({ from }, (entry) => {
      entry.gap ? gap(entry.gap) : keep(entry);
      return (entry.gap?.to ?? entry.number) < from + BLOCK - 1;
    });
  } catch { setTimeout(draw, 2100); }
  const far = [...blocks.keys()].sort((a, b) => Math.abs(a - block) - Math.abs(b - block)).slice(KEPT);
  for (const key of far) { blocks.delete(key); asked.delete(key); }
  draw();
}

// The view. A place of the scroll bar is a share of the log: at share `a`, line `a * newest` is at share `a` of the
// view. So lines may have any height, none is measured before it is seen, and a log may be longer than an element high.
const view = make('div', 'log view'), sizer = make('div', 'sizer'), pane = make('div', 'pane'), inner = make('div', 'inner');
view.tabIndex = 0;
view.setAttribute('role', 'region');
view.ariaLabel = 'Output';
pane.append(inner);
sizer.append(pane);
view.append(sizer);
const MOST = 15e6; // Pixels that every browser can do.
const rows = new Map();
const seen = { first: 1, last: 1 };
let frame = 0, following = !location.hash, target = 0, high = 20, times = 1, taller = false, measured = 0, settled;

function draw() {
  frame ||= requestAnimationFrame(() => { frame = 0; render(); });
}

const range = () => Math.max(0, view.scrollHeight - view.clientHeight);
const share = () => (range() ? Math.min(1, view.scrollTop / range()) : 0);

function render() {
  const whole = () => (newest && rows.size >= newest ? inner.offsetHeight : 0);
  const size = `${Math.min(MOST, Math.max(whole(), Math.ceil(newest * high * times)))}px`;
  if (sizer.style.height !== size) {
    const a = share();
    sizer.style.height = size;
    // Another height of lines is another length of the bar; more lines are not.
    if (taller) view.scrollTop = last = a * range();
  }
  taller = false;
  const height = view.clientHeight;
  pane.style.height = `${height}px`;
  if (following) view.scrollTop = last = range();
  // What was jumped to is a third down the view.
  const shown = height / high / times;
  const a = target ? Math.max(0, Math.min(1, (target - 0.5 - shown / 3) / Math.max(1, newest - shown))) : share();
  if (target) view.scrollTop = last = a * range();
  const at = Math.min(newest - 1e-6, a * newest), anchor = Math.max(1, Math.floor(at) + 1);
  seen.first = Math.max(1, anchor - Math.ceil(a * height / high) - 2);
  seen.last = Math.min(newest, anchor + Math.ceil((1 - a) * height / high) + 2);
  for (const [number, row] of rows) if (number < seen.first || number > seen.last) { row.remove(); rows.delete(number); }
  let place = inner.firstChild;
  for (let number = seen.first; number <= seen.last; number++) {
    let row = rows.get(number);
    if (!row || (row.empty && (line(number) || lost(number)))) {
      const made = row_of(number);
      if (row) { if (place === row) place = made; row.replaceWith(made); } else inner.insertBefore(made, place);
      rows.set(number, row = made);
    }
    place = row.nextSibling;
  }
  const row = rows.get(anchor);
  if (row) inner.style.transform = `translateY(${a * height - row.offsetTop - (at - anchor + 1) * row.offsetHeight}px)`;
  if (newest > measured * 2 && rows.size) {
    measured = newest;
    const now = Math.max(1, inner.offsetHeight / rows.size / high);
    if (Math.abs(now - times) > 0.1) { times = now; taller = true; draw(); }
  }
  if (whole() > sizer.offsetHeight) draw();
  // Who drags through the log does not want it all.
  settled ||= setTimeout(() => {
    settled = 0;
    for (const [number, row] of rows) if (row.empty) load(blockOf(number));
    for (const near of [seen.first - AHEAD, seen.last + AHEAD].map(blockOf)) if (near >= 0 && near <= blockOf(newest) && !blocks.has(near)) load(near);
  }, 60);
  mark();
}

// What a line of JSON says, as people would write it.
function told(text) {
  if (text[0] !== '{') return text;
  try {
    const { msg, message = msg, ...rest } = JSON.parse(text);
    const fields = Object.entries(rest).map(([name, value]) => `${name}=${Object(value) === value ? JSON.stringify(value) : value}`);
    return [message, ...fields].filter((part) => part !== undefined).join('  ');
  } catch { return text; }
}

function row_of(number) {
  const row = make('div', 'row'), entry = line(number), range = lost(number);
  const link = make('a', 'n', number);
  link.href = `#L${number}`;
  const text = make('span', 'x');
  if (entry) {
    if (entry.attempt > 1 && line(number - 1)?.attempt !== entry.attempt) row.append(make('div', 'attempt', `Attempt ${entry.attempt}`));
    const time = make('time', 't', entry.at.slice(11, 23));
    time.title = entry.at;
    row.append(link, time, make('span', 's', LEVELS.includes(entry.level) ? entry.level : entry.stream === 'stderr' ? 'err' : ''));
    row.classList.add(entry.stream, `is-${entry.level}`);
    paint(text, $('fields').checked ? told(entry.text) : entry.text);
  } else {
    row.append(link, make('time', 't'), make('span', 's'));
    row.empty = !range;
    if (range) row.classList.add('lost');
    text.textContent = !range ? '' : number === range.from ? `Lines ${range.from} to ${range.to} are lost` : '·';
  }
  row.append(text);
  row.classList.toggle('target', number === hash());
  return row;
}

// Places.
const hash = () => +(location.hash.match(/^#L(\d+)$/)?.[1] ?? 0);
let last = 0;

function go(number) {
  following = $('follow').checked = false;
  target = number;
  draw();
}

function toHash() {
  for (const [number, row] of rows) row.classList.toggle('target', number === hash());
  if (hash()) go(hash());
}

view.addEventListener('scroll', () => {
  // A pixel is less than a line; what was jumped to stays exactly there until somebody scrolls.
  if (Math.abs(view.scrollTop - last) > 1) {
    target = 0;
    const up = view.scrollTop < last;
    following = up ? false : following || range() - view.scrollTop < 2;
    $('follow').checked = following;
  }
  last = view.scrollTop;
  draw();
}, { passive: true });
new ResizeObserver(() => { measured = 0; draw(); }).observe(view);
addEventListener('hashchange', toHash);

// The search: the server finds lines, and what comes later is looked at here.
const FOUND = 20000;
const needle = $('needle'), hits = $('hits'), level = $('level'), LEVELS = ['warn', 'error'];
let found = [], hit = -1, searching, pattern, later, searched = '';
const wants = ({ level: is, text }) => (!level.value || LEVELS.indexOf(is) >= LEVELS.indexOf(level.value)) && (!pattern || plain(text).match(pattern));

async function search() {
  searching?.abort();
  searched = needle.value;
  const literal = searched.replace(/[\\^$.|?*+()[\]{}]/g, '\\$&');
  found = [];
  hit = -1;
  pattern = searched && new RegExp(literal, 'gi');
  said();
  draw();
  if (!searched && !level.value) return;
  const mine = searching = new AbortController(), upTo = newest, here = [];
  hits.textContent = 'Searching…';
  try {
    await lines({ ...(searched && { grep: `(?i)${literal}` }), ...(level.value && { level: level.value }) }, (entry) => {
      if (entry.gap) return true;
      here.push(entry.number);
      return here.length < FOUND && entry.number <= upTo;
    }, mine.signal);
    if (mine.signal.aborted) return;
    found = [...new Set([...here, ...found])].sort((a, b) => a - b);
    const from = found.findIndex((number) => number >= seen.first);
    said();
    step(0, from < 0 ? found.length - 1 : from);
  } catch { if (!mine.signal.aborted) hits.textContent = 'The search failed'; }
}

function said() {
  put(hits, !searched && !level.value ? '' : !found.length ? 'No match' : `${hit + 1} of ${found.length.toLocaleString()}${found.length >= FOUND ? '+' : ''}`);
}

function step(by, to = hit + by) {
  if (!found.length) return;
  hit = (to + found.length) % found.length;
  said();
  go(found[hit]);
}

// Marks what was found, without touching nodes.
function mark() {
  for (const [number, row] of rows) row.classList.toggle('hit', number === found[hit]);
  if (!window.Highlight) return;
  const ranges = [];
  if (pattern) {
    for (const row of rows.values()) {
      const text = row.querySelector('.x'), walk = document.createTreeWalker(text, NodeFilter.SHOW_TEXT), nodes = [];
      for (let node, at = 0; (node = walk.nextNode()); at += node.length) nodes.push({ node, at });
      const place = (to) => { const { node, at } = nodes.findLast(({ at }) => at < to) ?? nodes[0]; return [node, to - at]; };
      for (const { index, 0: { length } } of text.textContent.matchAll(pattern)) {
        const range = new Range();
        range.setStart(...place(index));
        range.setEnd(...place(index + length));
        ranges.push(range);
      }
    }
  }
  CSS.highlights.set('found', new Highlight(...ranges));
}

$('find').addEventListener('submit', (event) => {
  event.preventDefault();
  if (needle.value !== searched) search(); else step(1);
});
needle.addEventListener('input', () => { clearTimeout(later); later = setTimeout(() => needle.value === searched || search(), 250); });
needle.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !event.shiftKey) return;
  event.preventDefault();
  step(-1);
});
$('before').addEventListener('click', () => step(-1));
level.addEventListener('change', search);
$('fields').addEventListener('change', () => { for (const row of rows.values()) row.remove(); rows.clear(); measured = 0; draw(); });

// The tools.
for (const id of ['wrap', 'times']) {
  const change = () => {
    view.classList.toggle(id, $(id).checked);
    measured = 0;
    // What is in the middle stays there.
    if (!following && rows.size) go(target || Math.round((seen.first + seen.last) / 2));
    draw();
  };
  $(id).addEventListener('change', change);
  change();
}
$('follow').checked = following;
$('follow').addEventListener('change', () => { following = $('follow').checked; target = 0; draw(); });
$('jump').addEventListener('submit', (event) => {
  event.preventDefault();
  const number = +$('line').value;
  if (number >= 1) { history.replaceState(null, '', `#L${number}`); toHash(); }
});
keys((key, event) => {
  const tool = { f: 'follow', w: 'wrap', t: 'times' }[key];
  if (tool) $(tool).click();
  else if (key === 'g') { event.preventDefault(); $('line').focus(); }
});

// Live.
$('plain').replaceWith(view);
$('tools').hidden = false;
link.hidden = false;
toHash();
high = parseFloat(getComputedStyle(view).lineHeight) || 20;
const input = stream(logs({ format: 'sse', follow: true, tail: 1000 }), {
  batch(events) {
    for (const { event, data } of events) {
      if (event === 'line') {
        keep(data);
        if ((pattern || level.value) && !found.includes(data.number) && wants(data)) { found.push(data.number); said(); }
      } else if (event === 'gap') gap(data);
      else if (event === 'end' && data.complete) { ended = true; input.end(); look(); }
    }
    draw();
  },
  state(word, text) {
    link.className = `link is-${word}`;
    put(link, ended ? `The log is whole: ${newest.toLocaleString()} ${newest === 1 ? 'line' : 'lines'}` : text);
  },
});

// The head. The log has this tab's one stream, so this is asked for; no news is a few bytes.
async function look() {
  const head = $('head');
  if (document.hidden) return;
  try {
    const response = await fetch(`${origin}/ui/jobs/${job}/head?version=${head.dataset.version}`);
    if (response.status === 404) put(link, 'The job was deleted');
    if (response.status !== 200) return;
    const made = new DOMParser().parseFromString(await response.text(), 'text/html').getElementById('head');
    const focused = head.contains(document.activeElement) && document.activeElement.value;
    head.replaceWith(document.adoptNode(made));
    if (focused) made.querySelector(`button[value="${focused}"]`)?.focus();
    document.title = document.title.replace(/· \S+ ·/, `· ${made.dataset.state} ·`);
    tick(true);
  } catch { /* The stream says that the connection is lost. */ }
}
setInterval(() => 'whole' in $('head').dataset && 'final' in $('head').dataset || look(), 2000);
document.addEventListener('visibilitychange', look);
