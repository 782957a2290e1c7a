// The list: rows change and come in as jobs do, without moving what one looks at.
import { keys } from './app.js';
import { length, now, put, tick } from './show.js';
import { stream } from './stream.js';

const $ = (id) => document.getElementById(id);
const listing = $('listing'), rows = $('rows'), fresh = $('fresh'), live = $('live'), form = $('bulk');
const filter = JSON.parse(listing.dataset.filter), limit = +listing.dataset.limit;
const first = 'first' in listing.dataset;
const waiting = new Map(); // New jobs, not shown yet.

const ran = (job) => (Date.parse(job.finished_at) || now()) - Date.parse(job.started_at);

function belongs(job) {
  const { states, owner, labels, shown, text, template, since, until, least } = filter, created = Date.parse(job.created_at);
  return (!states.length || states.includes(job.state))
    && (owner === null || job.owner === owner)
    && (template === null || job.template === template)
    && (!shown || $(`j-${job.id}`))
    && Object.entries(labels).every(([name, value]) => job.labels[name] === value)
    && (text === null || job.name.toLowerCase().includes(text) || job.id.includes(text))
    && (since === null || created >= since) && (until === null || created < until)
    && (least === null || ran(job) >= least);
}

function fill(row, job) {
  if (+row.dataset.version >= job.version) return;
  const part = (selector) => row.querySelector(selector);
  row.dataset.version = job.version;
  const state = part('.state'), use = part('use');
  state.className = `state ${job.state}`;
  use.setAttribute('href', use.getAttribute('href').replace(/#.*/, `#${job.state}`));
  put(state.lastElementChild, job.state);
  row.classList.toggle('aside', !belongs(job));
  if (!row.id) {
    row.id = `j-${row.dataset.id = part('.pick input').value = job.id}`;
    part('.pick input').ariaLabel = `Select ${job.name}`;
    part('.name').href = `/ui/jobs/${job.id}`;
    put(part('.name'), job.name);
    put(part('.id'), job.id);
    put(part('.whose'), job.owner);
    part('time').dateTime = job.created_at;
    for (const [name, value] of Object.entries(job.labels)) {
      const textContent = value ? `${name}=${value}` : name;
      part('.labels').append(' ', Object.assign(document.createElement('span'), { className: 'label', textContent }));
    }
  }
  const why = [job.state === 'cancelled' && job.reason === 'Cancelled' ? '' : job.reason, job.message].filter(Boolean).join(': ');
  put(part('.why'), why);
  part('.why').hidden = !why;
  if (!job.started_at) return;
  const span = document.createElement('span');
  span.textContent = length(ran(job));
  if (!job.finished_at) span.dataset.since = Date.parse(job.started_at);
  part('.long').replaceChildren(span);
}

function made(job) {
  const row = $('row').content.firstElementChild.cloneNode(true);
  fill(row, job);
  return row;
}

const picked = () => form.querySelectorAll('[name=id]:checked');
// Who reads further down, ticks rows or walks along them would lose the place.
const busy = () => scrollY > 40 || picked().length > 0 || rows.contains(document.activeElement);

const below = (id) => [...rows.children].find((row) => row.dataset.id < id) ?? null;

function show() {
  const jobs = [...waiting.values()].slice(-limit);
  waiting.clear();
  for (const job of jobs) {
    rows.insertBefore(made(job), below(job.id));
  }
  for (let row; rows.children.length > limit && (row = rows.lastElementChild) && !row.querySelector(':checked, :focus');) row.remove();
  const last = rows.lastElementChild?.dataset.id, older = $('next');
  if (older) {
    const url = new URL(older.href);
    url.searchParams.set('after', last);
    older.href = url;
  }
  $('empty')?.remove();
  listing.hidden = false;
  $('none').hidden = rows.children.length > 0;
  tick(true);
  told();
}

function told() {
  fresh.hidden = !waiting.size;
  put(fresh, waiting.size === 1 ? '1 new job' : `${waiting.size} new jobs`);
}
fresh.addEventListener('click', () => { show(); scrollTo(0, 0); rows.querySelector('a.name')?.focus(); });
addEventListener('scroll', () => waiting.size && !busy() && show(), { passive: true });

function change(job) {
  const row = $(`j-${job.id}`);
  if (row) fill(row, job);
  else if (waiting.has(job.id)) belongs(job) ? waiting.set(job.id, job) : waiting.delete(job.id);
  // Only what is newer than this page's rows belongs above them.
  else if (first && belongs(job) && (rows.children.length < limit || job.id > rows.lastElementChild.dataset.id)) waiting.set(job.id, job);
}

function gone(id) {
  waiting.delete(id);
  const row = $(`j-${id}`);
  if (row && !row.contains(document.activeElement)) row.remove();
  else row?.classList.add('aside');
}

function counted({ counts, total }) {
  for (const chip of document.querySelectorAll('[data-count]')) put(chip, String(counts[chip.dataset.count] ?? total));
}

// Changes were missed: what the server shows now is true.
async function reread() {
  const response = await fetch(origin + '/' + location.search, { headers: { accept: 'text/html' } });
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), 'text/html');
  for (const row of [...rows.children]) if (!page.getElementById(row.id)) gone(row.dataset.id);
  for (const row of page.querySelectorAll('#rows > tr')) {
    const mine = $(row.id);
    if (mine && +mine.dataset.version >= +row.dataset.version) continue;
    const next = below(row.dataset.id);
    document.adoptNode(row);
    if (mine) mine.replaceChildren(...row.children);
    else rows.insertBefore(row, next);
    (mine ?? row).dataset.version = row.dataset.version;
  }
  tick(true);
}

function take(jobs) {
  jobs.forEach(change);
  if (waiting.size && !busy()) show();
  else told();
}

stream('/events', {
  last: 'page', // What happened since it was made is told too.
  batch(events) {
    const jobs = [];
    for (const { event, data } of events) {
      if (event === 'job') jobs.push(data);
      else if (event === 'deleted') gone(data.id);
      else if (event === 'counts') counted(data);
      else if (event === 'reset') reread();
    }
    take(jobs);
  },
  state(word, text) {
    live.className = `live is-${word}`;
    put(live, text ?? '');
  },
});

// Selection.
const all = $('all'), bar = form.querySelector('.bar');
let before;
function selected() {
  const count = picked().length;
  bar.classList.toggle('shown', count > 0);
  put($('picked'), count ? `${count} selected` : '');
  all.checked = count > 0 && count === rows.children.length;
  all.indeterminate = count > 0 && !all.checked;
  if (!count && waiting.size && !busy()) show();
}
all.hidden = false;
bar.classList.add('scripted');
all.addEventListener('change', () => { for (const box of rows.querySelectorAll('[name=id]')) box.checked = all.checked; selected(); });
rows.addEventListener('click', (event) => {
  if (event.target.name !== 'id') return;
  const boxes = [...rows.querySelectorAll('[name=id]')], here = boxes.indexOf(event.target), there = boxes.indexOf(before);
  if (event.shiftKey && there >= 0) for (const box of boxes.slice(Math.min(here, there), Math.max(here, there) + 1)) box.checked = event.target.checked;
  before = event.target;
  selected();
});
addEventListener('pageshow', selected);
selected();

keys((key) => {
  const row = document.activeElement.closest('#rows tr');
  if (key === 'j' || key === 'k') {
    const to = !row ? rows.firstElementChild : key === 'j' ? row.nextElementSibling : row.previousElementSibling;
    to?.querySelector('a.name').focus();
  } else if (key === 'x') row?.querySelector('[name=id]').click();
});
