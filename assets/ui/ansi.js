// A line of output as text nodes and spans: colours as terminals show them, and everything else of a terminal left out.

const ESCAPE = /\x1b(?:\[([0-9:;<=>?]*)[ -/]*([@-~])|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~]?)|[\0-\x08\x0b-\x1f\x7f]/g;
const SHOWN = 10000; // Characters of one line.

function colour(codes) {
  if (codes[0] === 2) return `rgb(${codes.splice(0, 4).slice(1).map((c) => c & 255).join()})`;
  if (codes[0] !== 5) return '';
  const n = codes.splice(0, 2)[1];
  if (n < 16) return n < 8 ? n : n + 52;
  if (n > 231) return `rgb(${Array(3).fill(8 + 10 * (n - 232)).join()})`;
  return `rgb(${[36, 6, 1].map((step) => [0, 95, 135, 175, 215, 255][Math.floor((n - 16) / step) % 6]).join()})`;
}

function change(style, text) {
  const codes = text.split(/[;:]/).map(Number);
  while (codes.length) {
    const code = codes.shift();
    if (code === 0) for (const key in style) delete style[key];
    else if (code === 1) style.bold = 1;
    else if (code === 2) style.dim = 1;
    else if (code === 3) style.italic = 1;
    else if (code === 4) style.line = 1;
    else if (code === 7) style.back = 0;
    else if (code === 22) { delete style.bold; delete style.dim; }
    else if (code === 23) delete style.italic;
    else if (code === 24) delete style.line;
    else if (code === 38) style.fore = colour(codes);
    else if (code === 39) delete style.fore;
    else if (code === 48) style.back = colour(codes);
    else if (code === 27 || code === 49) delete style.back;
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) style.fore = code - 30;
    else if ((code >= 40 && code <= 47) || (code >= 100 && code <= 107)) style.back = code - 40;
  }
}

function piece(text, style) {
  const { fore, back, ...rest } = style;
  if (fore === undefined && back === undefined && !Object.keys(rest).length) return document.createTextNode(text);
  const span = document.createElement('span');
  span.textContent = text;
  span.className = Object.keys(rest).join(' ');
  // The sixteen colours are those of the style sheet, which can be read on its ground; a ground is but hinted at.
  if (typeof fore === 'number') span.classList.add(`f${fore % 60}`);
  else if (fore) span.style.color = fore;
  if (typeof back === 'number') span.classList.add('back');
  else if (back) span.style.backgroundColor = back;
  return span;
}

// Returns what a terminal would leave of a line, without its escapes.
export function plain(text) {
  return cut(text).replace(ESCAPE, '');
}

function cut(text) {
  if (text.endsWith('\r')) text = text.slice(0, -1);
  return text.slice(text.lastIndexOf('\r') + 1);
}

export function paint(element, whole) {
  let text = cut(whole);
  const over = text.length - SHOWN;
  if (over > 0) text = text.slice(0, SHOWN);
  const style = {};
  let from = 0;
  const add = (to) => { if (to > from) element.append(piece(text.slice(from, to), style)); };
  for (const found of text.matchAll(ESCAPE)) {
    add(found.index);
    from = found.index + found[0].length;
    if (found[2] === 'm') change(style, found[1]);
  }
  add(text.length);
  if (over > 0) {
    const more = Object.assign(document.createElement('em'), { textContent: ` … ${over.toLocaleString()} more characters in the raw log` });
    element.append(more);
  }
}
