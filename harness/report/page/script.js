"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { labels, within, heads } = data;

function make(name, attributes = {}, ...children) {
  const svg = ["svg", "rect", "text", "title"].includes(name);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function histogram(counts, unit, [low, high] = ["bar", "bar beyond"]) {
  const [width, height, foot] = [420, 150, 34];
  const step = width / counts.length, tallest = Math.log1p(Math.max(...counts)) || 1;
  const words = counts.map((count, i) => (count ? `${labels[i]}: ${count}` : "")).filter(Boolean).join(", ");
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${unit}: ${words || "nothing compared"}` });
  counts.forEach((count, i) => {
    const tall = (height - foot - 14) * Math.log1p(count) / tallest, middle = (i + 0.5) * step;
    svg.append(make("rect", { class: i < within ? low : high, x: i * step + 1, y: height - foot - tall, width: step - 2, height: tall }));
    svg.append(make("text", { class: "tick", x: middle, y: height - foot + 13 }, labels[i]));
    if (count) svg.append(make("text", { x: middle, y: height - foot - tall - 3 }, short(count)));
  });
  svg.append(make("text", { class: "axis", x: width / 2, y: height - 5 }, unit));
  return svg;
}

function short(count) {
  return count >= 1e6 ? `${(count / 1e6).toPrecision(2)}M` : count >= 1e4 ? `${Math.round(count / 1e3)}k` : String(count);
}

function fine(cell) {
  return cell.status === "pass" || cell.status === "waived"; // a known deviation is held to what remains
}

function title(cell) {
  return `${cell.operation}${cell.layer === "" ? "" : `, layer ${cell.layer}`}, ${cell.dtype}`;
}

function details(candidate, cell) {
  const section = make("section", {}, make("h4", {}, title(cell)));
  const verdict = cell.problem || (fine(cell) ? `within its fence: ${cell.shown} of what is allowed` : `${cell.shown} times what is allowed`);
  section.append(make("p", { class: `status ${cell.status}` }, verdict));
  if (cell.diagnosis) section.append(make("p", { class: "fault" }, cell.diagnosis));
  if (cell.tokens.length) {
    const table = make("table", {}, make("tr", {}, ...heads.map((head) => make("th", { class: "figure", scope: "col" }, head))));
    for (const token of cell.tokens) table.append(make("tr", {}, ...token.map((figure) => make("td", { class: "figure" }, figure))));
    section.append(make("div", { class: "scroll", tabindex: "0" }, table));
  }
  section.append(make("figure", {}, histogram(cell.histogram, `error / fence of ${cell.elements} values, all cases`)));
  section.append(make("p", { class: "faint" }, `worst in ${cell.case}, call ${cell.call}, tap ${cell.tap}`));
  section.append(make("pre", {}, cell.reproduce));
  return section;
}

for (const article of document.querySelectorAll("article")) {
  const candidate = data.candidates[Number(article.dataset.candidate)];
  const panel = article.querySelector(".details"), buttons = [...article.querySelectorAll(".map button")];
  const choose = (button, focus) => {
    for (const other of buttons) { other.tabIndex = other === button ? 0 : -1; other.setAttribute("aria-pressed", other === button); }
    panel.replaceChildren(details(candidate.name, candidate.cells[Number(button.dataset.cell)]));
    if (focus) button.focus();
  };
  for (const button of buttons) {
    button.setAttribute("aria-label", `${title(candidate.cells[Number(button.dataset.cell)])}: ${button.textContent}`);
    button.addEventListener("click", () => {
      choose(button, true);
      if (panel.getBoundingClientRect().top > window.innerHeight - 80) panel.scrollIntoView({ block: "nearest" });
    });
    button.addEventListener("keydown", (event) => {
      const row = button.closest("tr"), column = [...row.children].indexOf(button.parentElement);
      const next = { ArrowLeft: [row, -1], ArrowRight: [row, 1] }[event.key];
      let target = null;
      if (next) {
        const inRow = buttons.filter((other) => other.closest("tr") === row);
        target = inRow[inRow.indexOf(button) + next[1]];
      } else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
        const sibling = event.key === "ArrowUp" ? "previousElementSibling" : "nextElementSibling";
        for (let other = row[sibling]; other && !target; other = other[sibling]) target = other.children[column]?.querySelector("button");
      }
      if (target) { event.preventDefault(); choose(target, true); }
    });
  }
  const first = buttons.find((button) => button.classList.contains("wrong")) || buttons[0];
  if (first) choose(first, false);
  const paper = article.querySelector(".failing");
  for (const cell of candidate.cells) if (!fine(cell)) paper.append(details(candidate.name, cell));
}

for (const figure of document.querySelectorAll("figure[data-counts]")) {
  figure.prepend(histogram(JSON.parse(figure.dataset.counts), figure.dataset.unit, ["bar close", "bar"]));
}

function show(index) {
  document.querySelectorAll("article").forEach((article) => { article.hidden = article.dataset.candidate !== String(index); });
  document.querySelectorAll(".choose").forEach((button) => button.setAttribute("aria-pressed", button.dataset.candidate === String(index)));
}
for (const button of document.querySelectorAll(".choose")) {
  button.addEventListener("click", () => { show(button.dataset.candidate); document.querySelector("article:not([hidden]) h2").scrollIntoView(); });
}
show(0);
