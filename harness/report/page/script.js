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
  return ["pass", "waived", "quirk"].includes(cell.status); // a known deviation is held to what remains
}

function title(cell) {
  return `${cell.operation}${cell.layer === "" ? "" : `, layer ${cell.layer}`}, ${cell.dtype}`;
}

function link(address) {
  return `#${new URLSearchParams(address)}`;
}

function copied(words, label) {
  return make("button", { class: "copy screen", "data-text": words, "aria-label": label }, "copy");
}

async function copy(button) {
  const words = button.dataset.text.startsWith("#") ? location.href.split("#")[0] + button.dataset.text : button.dataset.text;
  try {
    await navigator.clipboard.writeText(words);
  } catch { // pages in a file may not be given the clipboard
    const field = make("textarea", {}, words);
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  const label = button.textContent;
  button.textContent = "copied";
  setTimeout(() => { button.textContent = label; }, 1500);
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) copy(button);
});

function details(candidate, cell) {
  const section = make("section", {}, make("h4", {}, title(cell)));
  const verdict = cell.problem || (fine(cell) ? `within its fence: ${cell.shown} of what is allowed` : `${cell.shown} times what is allowed`);
  section.append(make("p", { class: `status ${cell.status}` }, verdict));
  if (cell.diagnosis) section.append(make("p", { class: "fault" }, cell.diagnosis));
  if (cell.plan) section.append(make("p", {}, `rounding plan: ${cell.plan}`));
  for (const change of cell.changes) section.append(make("p", {}, `what to change: ${change}`));
  if (cell.tokens.length) {
    const table = make("table", {}, make("tr", {}, ...heads.map((head) => make("th", { class: "figure", scope: "col" }, head))));
    for (const token of cell.tokens) table.append(make("tr", {}, ...token.map((figure) => make("td", { class: "figure" }, figure))));
    section.append(make("div", { class: "scroll", tabindex: "0" }, table));
  }
  section.append(make("figure", {}, histogram(cell.histogram, `error / fence of ${cell.elements} values, all cases`)));
  section.append(make("p", { class: "faint" }, `worst in ${cell.case}, call ${cell.call}, tap ${cell.tap}`));
  const command = candidate.command + cell.reproduce;
  section.append(make("pre", {}, command, " ", copied(command, "copy the command")));
  return section;
}

function addressOf(candidate, cell) {
  return { candidate, operation: cell.operation, layer: cell.layer, dtype: cell.dtype };
}

for (const article of document.querySelectorAll("article")) {
  const candidate = data.candidates[Number(article.dataset.candidate)];
  const panel = article.querySelector(".details"), buttons = [...article.querySelectorAll(".map button")];
  const map = article.querySelector(".map"), unfold = article.querySelector(".unfold");
  const spread = (open) => {
    map.classList.toggle("unfolded", open);
    for (const head of map.querySelectorAll("th.dtype")) {
      head.dataset.folded ??= head.colSpan;
      head.colSpan = open ? head.dataset.unfolded : head.dataset.folded;
    }
    unfold?.setAttribute("aria-expanded", open);
    if (unfold) unfold.textContent = open ? "fold the layers that pass" : "show each layer that passes";
    hint(article);
  };
  unfold?.addEventListener("click", () => spread(!map.classList.contains("unfolded")));
  const choose = (button, focus) => {
    const cell = candidate.cells[Number(button.dataset.cell)], address = link(addressOf(candidate.name, cell));
    for (const other of buttons) { other.tabIndex = other === button ? 0 : -1; other.setAttribute("aria-pressed", other === button); }
    const back = make("button", { class: "back" }, "back to the map");
    back.addEventListener("click", () => { button.scrollIntoView({ block: "center" }); button.focus({ preventScroll: true }); });
    const share = make("button", { class: "copy", "data-text": address }, "copy a link to this");
    panel.replaceChildren(details(candidate, cell), make("p", { class: "actions" }, share, back));
    if (focus) { button.focus({ preventScroll: true }); history.replaceState(null, "", address); }
  };
  const enter = (button) => {
    choose(button, true);
    if (getComputedStyle(panel).position === "static") panel.scrollIntoView({ block: "start" }); // it lies below the map
  };
  article.addEventListener("arrive", ({ detail }) => {
    const wanted = candidate.cells.findIndex((cell) => ["operation", "layer", "dtype"].every((key) => cell[key] === (detail.get(key) ?? "")));
    const button = buttons.findLast((other) => Number(other.dataset.cell) === wanted);
    if (!button) return;
    if (!button.offsetParent) spread(true);
    enter(button);
  });
  filterCases(article);
  for (const button of buttons) {
    button.setAttribute("aria-label", `${title(candidate.cells[Number(button.dataset.cell)])}: ${button.textContent}`);
    button.addEventListener("click", () => enter(button));
    button.addEventListener("keydown", (event) => {
      const row = button.closest("tr"), column = [...row.children].indexOf(button.parentElement);
      const next = { ArrowLeft: [row, -1], ArrowRight: [row, 1] }[event.key];
      let target = null;
      if (next) {
        const inRow = buttons.filter((other) => other.closest("tr") === row && other.offsetParent);
        target = inRow[inRow.indexOf(button) + next[1]];
      } else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
        const sibling = event.key === "ArrowUp" ? "previousElementSibling" : "nextElementSibling";
        for (let other = row[sibling]; other && !target; other = other[sibling]) target = other.children[column]?.querySelector("button");
      }
      if (target) { event.preventDefault(); choose(target, true); target.scrollIntoView({ block: "nearest", inline: "nearest" }); }
    });
  }
  const first = buttons.find((button) => button.classList.contains("wrong")) || buttons[0];
  if (first) choose(first, false);
  const paper = article.querySelector(".failing");
  for (const cell of candidate.cells) if (!fine(cell)) paper.append(details(candidate, cell));
}

function hint(article) {
  const map = article.querySelector(".map").parentElement;
  article.querySelector(".hint").hidden = map.scrollWidth <= map.clientWidth;
}

function filterCases(article) {
  const [field, rows] = [article.querySelector(".filter input"), [...article.querySelectorAll("tr[data-case]")]];
  const choices = [...article.querySelectorAll(".filter button")];
  const apply = () => {
    const status = choices.find((choice) => choice.getAttribute("aria-pressed") === "true").dataset.status;
    for (const row of rows) {
      row.hidden = (status && row.dataset.status !== status) || !row.textContent.includes(field.value.trim());
    }
    article.querySelector(".none").hidden = rows.some((row) => !row.hidden);
  };
  field.addEventListener("input", apply);
  for (const choice of choices) {
    choice.addEventListener("click", () => {
      for (const other of choices) other.setAttribute("aria-pressed", other === choice);
      apply();
    });
  }
}

for (const figure of document.querySelectorAll("figure[data-counts]")) {
  figure.prepend(histogram(JSON.parse(figure.dataset.counts), figure.dataset.unit, ["bar close", "bar"]));
}

function show(index) {
  const article = document.querySelector(`article[data-candidate="${index}"]`);
  document.querySelectorAll("article").forEach((article) => { article.hidden = article.dataset.candidate !== String(index); });
  document.querySelectorAll(".choose").forEach((button) => button.setAttribute("aria-pressed", button.dataset.candidate === String(index)));
  hint(article);
  return article;
}
for (const button of document.querySelectorAll(".choose")) {
  button.addEventListener("click", () => {
    const { name } = data.candidates[Number(button.dataset.candidate)];
    show(button.dataset.candidate).querySelector("h2").scrollIntoView();
    history.replaceState(null, "", link({ candidate: name }));
  });
}

function arrive() {
  const address = new URLSearchParams(location.hash.slice(1));
  const index = data.candidates.findIndex((candidate) => candidate.name === address.get("candidate"));
  const article = show(Math.max(index, 0));
  if (index >= 0 && address.has("operation")) article.dispatchEvent(new CustomEvent("arrive", { detail: address }));
}
window.addEventListener("hashchange", arrive);
window.addEventListener("resize", () => hint(document.querySelector("article:not([hidden])")));
arrive();
