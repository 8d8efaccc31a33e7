"use strict";
// The pages about runs: switches between charts, the tables of people, and pictures that open large.
// Everything is in the page already; nothing is asked of anybody. Texts are set as text, never as HTML.

document.documentElement.classList.add("js");

const ROWS = 25;

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// --- Switches: one chart of a group is seen at a time.

function choose(group, choice) {
  for (const one of document.querySelectorAll(`.choice[data-group="${group}"]`)) {
    one.classList.toggle("chosen", one.dataset.choice === choice);
  }
}

for (const one of document.querySelectorAll('.choice[data-choice="0"]')) choose(one.dataset.group, "0");
for (const fieldset of document.querySelectorAll(".switch")) {
  const show = () => choose(fieldset.dataset.group, fieldset.querySelector(":checked").value);
  fieldset.addEventListener("change", show);
  show(); // browsers keep what was chosen before a reload
}

// --- Pictures that open large.

const viewer = document.getElementById("viewer");
const part = (name) => document.getElementById(`viewer-${name}`);
let shown = []; // cards to go through, in the order of where the first was opened
let place = 0;

function show(number) {
  place = (number + shown.length) % shown.length;
  const card = shown[place];
  part("name").textContent = card.querySelector("figcaption b").textContent;
  part("place").textContent = `${place + 1} of ${shown.length}`;
  part("panels").replaceChildren(card.querySelector(".panels").cloneNode(true));
  part("facts").replaceChildren(card.querySelector("figcaption").cloneNode(true));
  for (const name of ["back", "next"]) part(name).hidden = shown.length < 2;
}

function open(card, cards) {
  shown = cards;
  show(cards.indexOf(card));
  viewer.showModal();
  part("name").focus();
}

part("close").addEventListener("click", () => viewer.close());
part("back").addEventListener("click", () => show(place - 1));
part("next").addEventListener("click", () => show(place + 1));
viewer.addEventListener("click", (event) => {
  if (event.target === viewer) viewer.close(); // beside it, on the backdrop
});
viewer.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: shown.length - 1 };
  if (event.altKey || event.ctrlKey || event.metaKey || !(event.key in steps)) return;
  event.preventDefault();
  show(steps[event.key]);
});

for (const gallery of document.querySelectorAll(".galleries")) {
  const cards = [...gallery.querySelectorAll(".card")];
  for (const card of cards) {
    const button = card.querySelector(".open");
    button.hidden = false;
    button.addEventListener("click", () => open(card, cards));
  }
}

// --- Tables of people.

class People {
  constructor(root) {
    const data = JSON.parse(root.querySelector(".data").textContent);
    this.columns = data.columns;
    this.rows = data.rows.map((values, rank) => {
      const card = data.cards[rank] && document.getElementById(data.cards[rank]);
      return { values, rank, card };
    });
    this.sorted = { column: data.sorted, sign: -1 };
    this.first = 0;
    this.collator = new Intl.Collator(undefined, { numeric: true });
    this.body = root.querySelector("tbody");
    this.status = root.querySelector(".status");
    this.form = root.querySelector(".tools");
    this.pictures = this.rows.some((row) => row.card);
    [this.back, this.next] = [root.querySelector(".back"), root.querySelector(".next")];
    this.heads = [...root.querySelectorAll("thead th")];
    this.heads.forEach((head, column) => this.prepare(head, column));
    if (this.pictures) {
      const head = element("th", { scope: "col", className: "thumb" });
      head.append(element("span", { className: "unseen", textContent: "picture" }));
      this.heads[0].before(head);
    }
    this.fillActions();
    this.form.hidden = this.back.parentElement.hidden = false;
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => this.update());
    this.back.addEventListener("click", () => this.turn(-ROWS));
    this.next.addEventListener("click", () => this.turn(ROWS));
    this.update();
  }

  prepare(head, column) {
    const button = element("button", { type: "button", textContent: head.textContent });
    head.replaceChildren(button);
    button.addEventListener("click", () => this.sort(column));
  }

  fillActions() {
    const select = this.form.elements.action;
    if (!select) return;
    const names = new Set(this.rows.map((row) => row.values[1]));
    for (const name of [...names].sort(this.collator.compare)) {
      if (name !== "") select.append(element("option", { value: name, textContent: name }));
    }
  }

  // Numbers fall at first, the worst on top; names rise. The same column again turns the order.
  sort(column) {
    const again = this.sorted.column === column;
    const text = this.columns[column].digits === null;
    this.sorted = { column, sign: again ? -this.sorted.sign : text ? 1 : -1 };
    this.heads.forEach((head, index) => {
      if (index !== column) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", this.sorted.sign > 0 ? "ascending" : "descending");
    });
    this.update();
  }

  update() {
    const { name, action, pictured } = this.form.elements;
    const wanted = name.value.trim().toLowerCase();
    this.chosen = this.rows.filter(
      (row) =>
        (!wanted || row.values[0].toLowerCase().includes(wanted)) &&
        (!action?.value || row.values[1] === action.value) &&
        (!pictured?.checked || row.card),
    );
    const { column, sign } = this.sorted;
    this.chosen.sort((a, b) => this.compare(a.values[column], b.values[column], sign) || a.rank - b.rank);
    this.first = 0;
    this.draw();
  }

  // What is not known comes last, whichever way the others go.
  compare(a, b, sign) {
    const [noA, noB] = [a, b].map((value) => value === null || value === "");
    if (noA || noB) return noA - noB;
    return sign * (typeof a === "number" ? a - b : this.collator.compare(a, b));
  }

  turn(step) {
    this.first += step;
    this.draw();
  }

  draw() {
    const total = this.chosen.length;
    const rows = this.chosen.slice(this.first, this.first + ROWS);
    this.body.replaceChildren(...rows.map((row) => this.line(row)));
    const last = this.first + rows.length;
    const count = (number) => number.toLocaleString("en");
    this.status.textContent = total
      ? `${count(this.first + 1)} to ${count(last)} of ${count(total)}`
      : "nobody";
    this.back.disabled = this.first === 0;
    this.next.disabled = last >= total;
  }

  line(row) {
    const cells = row.values.map((value, column) => {
      const { digits } = this.columns[column];
      const cell = element(column ? "td" : "th", { textContent: this.text(value, column) });
      if (!column) cell.scope = "row";
      else if (digits === null) cell.className = "text";
      return cell;
    });
    if (this.pictures) cells.unshift(this.thumbnail(row));
    return element("tr", {}, ...cells);
  }

  text(value, column) {
    const { digits, signed } = this.columns[column];
    if (value === null) return "–";
    if (digits === null) return value;
    const sign = signed && value > 0 ? "+" : "";
    return (sign + value.toFixed(digits)).replace("-", "−");
  }

  thumbnail(row) {
    const cell = element("td", { className: "thumb" });
    if (row.card) {
      const image = element("img", { src: row.card.querySelectorAll(".front img")[1].src, alt: "" });
      const button = element("button", { type: "button" }, image);
      button.setAttribute("aria-label", `Open the pictures of ${row.values[0]}`);
      const cards = () => this.chosen.map((one) => one.card).filter(Boolean);
      button.addEventListener("click", () => open(row.card, cards()));
      cell.append(button);
    }
    return cell;
  }
}

for (const root of document.querySelectorAll(".people-table")) new People(root);
