"use strict";
for (const figure of document.querySelectorAll(".compared")) {
  const stack = figure.querySelector(".stack");
  const range = figure.querySelector("input");
  const show = () => stack.style.setProperty("--share", `${range.value}%`);
  const follow = (event) => {
    const box = stack.getBoundingClientRect();
    range.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    show();
  };
  range.addEventListener("input", show);
  stack.addEventListener("pointerdown", (event) => {
    stack.setPointerCapture(event.pointerId);
    follow(event);
  });
  stack.addEventListener("pointermove", (event) => event.buttons && follow(event));
  show();
}
for (const map of document.querySelectorAll(".map")) {
  const told = JSON.parse(map.querySelector(".cells").textContent);
  const svg = map.querySelector("svg");
  const side = Number(svg.dataset.cell);
  const keys = Object.keys(told).map((key) => key.split(",").map(Number));
  const [left, top] = [0, 1].map((i) => Math.min(...keys.map((key) => key[i])) % side);
  const tell = (event) => {
    const box = svg.getBoundingClientRect();
    const cell = (at, from) => Math.floor((at - from) / side) * side + from;
    map.querySelector(".told").textContent = told[`${cell(event.clientX - box.left, left)},${cell(event.clientY - box.top, top)}`] ?? "";
  };
  svg.addEventListener("pointermove", tell);
  svg.addEventListener("pointerdown", tell);
}
for (const details of document.querySelectorAll("details")) {
  const head = details.querySelector("thead tr");
  const made = (value, i) => {
    const cell = document.createElement(i ? "td" : "th");
    cell.textContent = value;
    cell.className = head.cells[i].className;
    if (!i) cell.scope = "row";
    return cell;
  };
  const fill = () => {
    const rows = JSON.parse(details.querySelector(".rows").textContent);
    for (const row of rows) details.querySelector("tbody").insertRow().append(...row.map(made));
  };
  details.addEventListener("toggle", fill, { once: true });
}
