"use strict";
// What the other scripts of a page share. Whatever comes from a run is set as text, never as markup.
const find = (id) => document.getElementById(id);

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

const page = JSON.parse(find("data").textContent);
const signed = (text) => text.replace("-", "−");
const number = (value) => (value === null ? "—" : signed(value.toFixed(3)));

// Four digits that tell something, without the zeros behind them.
function brief(value) {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return signed(value.toExponential(2));
  return signed(String(Number(value.toPrecision(4))));
}
