"use strict";
/* The page: whom it shows, which body, which layers. What is drawn is asked of scene.js. */

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
$("data").remove();
const STEPS = { before: "before", after: "after", network: "network" };
const state = { person: 0, body: 0, view: { yaw: 0, pitch: 0, target: data.frame.target, extent: data.frame.extent, pan: [0, 0] } };
let arrays = null, scene = null, faces = null, painted = null, playing = 0, asked = false;

const floats = (at) => new Float32Array(arrays, at[0], at[1]);
const bytes = (at) => new Uint8Array(arrays, at[0], at[1]);
const shades = (at) => Float32Array.from(bytes(at), (value) => value / 255);
const person = () => data.people[state.person];

function decoded(text) {
  const packed = atob(text), plain = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) plain[i] = packed.charCodeAt(i);
  return plain;
}

function vertices(body) {
  const whole = new Int16Array(arrays, ...body.vertices), found = new Float32Array(whole.length);
  for (let i = 0; i < whole.length; i++) found[i] = whole[i] * body.unit;
  return found;
}

function begin(buffer) {
  arrays = buffer;
  faces = new Uint32Array(arrays, ...data.faces);
  painted = shades(data.colours);
  scene = new Scene($("scene"));
}

/* ---- one person, one body */

function showPerson(number, photo) {
  state.person = number;
  const who = person(), bodies = who.bodies;
  const last = bodies.map((b) => b.step).lastIndexOf("after");
  state.body = last >= 0 ? last : bodies.length - 1;
  scene.setPhoto(photo, who.photoDepth);
  scene.meshes = {};
  showBody(state.body, false);
}

function setBody(body, shape) {
  scene.setMesh("body", shape, faces, body.painted ? painted : new Float32Array(data.shade));
  for (const name of ["points", "keypoints"]) {
    const marks = body[name];
    scene.setMarks(name, {
      count: marks.count, both: body.painted, placed: floats(marks.placed), found: floats(marks.found),
      colours: shades(marks.colours), lineColours: shades(marks.lineColours),
    });
  }
}

function setStart(body) {
  const before = person().bodies.find((b) => b.round === body.round && b.step === "before");
  if (before && before !== body) scene.setMesh("start", vertices(before), faces, new Float32Array(data.ghost));
  else scene.removeMesh("start");
}

/* Another body of the same person: it moves there. */
function showBody(number, smoothly = true) {
  const body = person().bodies[number];
  const from = scene.meshes.body ? scene.meshes.body.vertices : null, to = vertices(body);
  state.body = number;
  setStart(body);
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (!smoothly || still || !from) setBody(body, to);
  else morph(body, from, to, performance.now());
  render();
  if ($("panel")) fill();
}

function morph(body, from, to, began) {
  const step = () => {
    if (person().bodies[state.body] !== body) return;
    const share = Math.min(1, (performance.now() - began) / 380), eased = share * share * (3 - 2 * share);
    setBody(body, share === 1 ? to : from.map((value, i) => value + (to[i] - value) * eased));
    render();
    if (share < 1) requestAnimationFrame(step);
  };
  step();
}

/* ---- drawing */

function layers() {
  const show = {};
  for (const id of ["photo", "body", "start", "points", "keypoints", "lines"]) show[id] = $(id).checked;
  show.opacity = Number($("opacity").value);
  return show;
}

function background() {
  return document.documentElement.classList.contains("dark") ? [0.08, 0.09, 0.11] : [0.965, 0.97, 0.976];
}

function render() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    const canvas = $("scene"), ratio = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    scene.clear(background());
    scene.draw(state.view, layers(), { x: 0, y: 0, width, height });
  });
}

/* ---- the panel */

function fill() {
  const who = person(), now = who.bodies[state.body];
  document.title = who.key;
  $("name").textContent = who.key;
  $("about").textContent = [who.split, who.action].filter(Boolean).join(" · ");
  $("flag").replaceChildren();
  if (who.flag) {
    const badge = document.createElement("span");
    badge.textContent = who.flag === "ok" ? "fit ok" : who.flag;
    badge.classList.toggle("bad", who.flag !== "ok");
    $("flag").append(badge);
  }
  $("story").hidden = who.bodies.length < 2;
  $("origin").textContent = (now.round ? `Round ${now.round}: ` : "") + now.origin;
  $("notes").textContent = who.notes.join(" ");
  $("bodies").replaceChildren(...rows(who, now));
  $("start").closest("label").hidden = !who.bodies.some((b) => b.step === "before");
  for (const button of $("people").children) button.setAttribute("aria-current", Number(button.dataset.number) === state.person);
}

function rows(who, now) {
  const steps = Object.keys(STEPS).filter((step) => who.bodies.some((b) => b.step === step));
  const row = (cells, tag) => {
    const line = document.createElement("tr");
    for (const cell of cells) {
      const box = document.createElement(tag);
      box.append(cell);
      line.append(box);
    }
    return line;
  };
  const rounds = [...new Set(who.bodies.map((b) => b.round))];
  return [row(["round", ...steps.map((step) => STEPS[step])], "th"), ...rounds.map((round) =>
    row([String(round || ""), ...steps.map((step) => cell(who, round, step, now))], "td"))];
}

function cell(who, round, step, now) {
  const number = who.bodies.findIndex((b) => b.round === round && b.step === step);
  if (number < 0) return "";
  const body = who.bodies[number], button = document.createElement("button");
  button.textContent = body.error === null ? "–" : body.error.toFixed(2);
  button.title = body.facing === null ? body.origin : `${body.origin}; ${Math.round(100 * body.facing)} % of the points face the camera`;
  button.setAttribute("aria-pressed", body === now);
  button.classList.toggle("bad", body.facing !== null && body.facing < 0.5);
  button.onclick = () => { stop(); showBody(number); };
  return button;
}

/* ---- walking and playing */

/* Photographs take a moment to decode: whoever was asked for last is shown, and keys count from there. */
let wanted = 0;

async function go(number) {
  if (number < 0 || number >= data.people.length) return;
  stop();
  wanted = number;
  const who = data.people[number];
  const photo = who.photo ? await createImageBitmap(new Blob([bytes(who.photo)], { type: "image/jpeg" })) : null;
  if (number === wanted) showPerson(number, photo);
}

function toRound(round) {
  const step = person().bodies[state.body].step;
  for (const wanted of [step, "after", "before", "network"]) {
    const number = person().bodies.findIndex((b) => b.round === round && b.step === wanted);
    if (number >= 0) return showBody(number);
  }
}

function toggle() {
  const now = person().bodies[state.body], wanted = now.step === "before" ? "after" : "before";
  const number = person().bodies.findIndex((b) => b.round === now.round && b.step === wanted);
  if (number >= 0) showBody(number);
}

/* The story of a run in order: each fit begins where the network's last prediction was. */
function play() {
  if (playing) return stop();
  const order = person().bodies.map((b, i) => i).filter((i) => person().bodies[i].step !== "network");
  if (!order.length) return;
  let place = 0;
  const next = () => { showBody(order[place++]); if (place >= order.length) stop(); };
  next();
  if (place < order.length) playing = setInterval(next, 1100);
  $("play").textContent = playing ? "■ Stop" : "▶ Play the rounds";
}

function stop() {
  clearInterval(playing);
  playing = 0;
  $("play").textContent = "▶ Play the rounds";
}

function listen() {
  const canvas = $("scene"), view = state.view, pointers = new Map();
  canvas.onpointerdown = (event) => { pointers.set(event.pointerId, event); canvas.setPointerCapture(event.pointerId); };
  canvas.onpointerup = canvas.onpointercancel = (event) => pointers.delete(event.pointerId);
  canvas.onpointermove = (event) => {
    const old = pointers.get(event.pointerId);
    if (!old) return;
    const dx = event.clientX - old.clientX, dy = event.clientY - old.clientY;
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()];
      const before = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      pointers.set(event.pointerId, event);
      const [c, d] = [...pointers.values()];
      view.extent *= before / Math.max(1, Math.hypot(c.clientX - d.clientX, c.clientY - d.clientY));
    } else if (event.shiftKey || event.buttons === 2 || event.buttons === 4) {
      view.pan[0] += (2 * dx) / canvas.clientWidth;
      view.pan[1] -= (2 * dy) / canvas.clientHeight;
    } else {
      view.yaw = (view.yaw - dx * 0.4 + 540) % 360 - 180;
      view.pitch = Math.max(-89, Math.min(89, view.pitch + dy * 0.4));
    }
    pointers.set(event.pointerId, event);
    render();
  };
  canvas.oncontextmenu = (event) => event.preventDefault();
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    view.extent = Math.max(0.15, Math.min(6, view.extent * Math.exp(event.deltaY * 0.001)));
    render();
  }, { passive: false });
  for (const button of $("views").children) button.onclick = () => {
    Object.assign(view, { yaw: Number(button.dataset.yaw), pitch: Number(button.dataset.pitch), pan: [0, 0], extent: data.frame.extent });
    render();
  };
  for (const input of $("layers").querySelectorAll("input")) input.oninput = render;
  $("play").onclick = play;
  window.onresize = render;
  document.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.type === "range") return;
    if (event.key === " " && event.target.matches("button, input")) return; // it presses these
    const [next, previous] = [() => go(wanted + 1), () => go(wanted - 1)];
    const keys = {
      n: next, pagedown: next, p: previous, pageup: previous, b: toggle, " ": play,
      h: () => { $("photo").checked = !$("photo").checked; render(); },
      g: () => { $("start").checked = !$("start").checked; render(); },
    };
    const act = /^[1-9]$/.test(event.key) ? () => toRound(Number(event.key)) : keys[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  };
}

function thumbnails() {
  if (data.people.length < 2) return;
  for (const [number, who] of data.people.entries()) {
    const button = document.createElement("button"), name = document.createElement("span");
    button.dataset.number = number;
    button.title = who.key;
    // Long names show their end: set from right to left, but between marks that keep their own order.
    name.textContent = `\u200e${who.key}\u200e`;
    if (who.photo) {
      const image = new Image();
      image.alt = "";
      image.src = URL.createObjectURL(new Blob([bytes(who.photo)], { type: "image/jpeg" }));
      button.append(image);
    }
    button.append(name);
    button.onclick = () => go(number);
    $("people").append(button);
  }
}

async function start() {
  try {
    const packed = new Blob([decoded(data.arrays)]).stream().pipeThrough(new DecompressionStream("gzip"));
    data.arrays = null;
    begin(await new Response(packed).arrayBuffer());
  } catch (error) {
    $("name").textContent = `This page cannot be shown: ${error.message}.`;
    return;
  }
  if (data.dark) document.documentElement.classList.add("dark");
  const bare = data.people.every((who) => who.bodies.every((b) => b.painted && !b.points.count && !b.keypoints.count));
  $("layers").hidden = bare;
  if (data.labelsOnly) { $("keypoints").checked = true; $("lines").checked = false; }
  $("made").textContent = data.made;
  thumbnails();
  listen();
  await go(0);
  document.body.dataset.ready = "true";
}

/* A picture instead of a page: several views of one person, drawn at once, left in the document as png. */
function portrait() {
  const done = (id, text) => {
    const box = document.createElement("pre");
    box.id = id;
    box.textContent = text;
    document.body.replaceChildren(box);
  };
  try {
    begin(decoded(data.arrays).buffer);
    const { side, views, raw } = data.portrait, canvas = $("scene");
    canvas.width = side * views.length;
    canvas.height = side;
    showPerson(0, raw ? { width: raw.side, height: raw.side, data: bytes(raw.pixels) } : null);
    scene.clear(data.dark ? [0.08, 0.09, 0.11] : [1, 1, 1]);
    views.forEach((view, i) => scene.draw(view, view.show, { x: i * side, y: 0, width: side, height: side }));
    done("picture", canvas.toDataURL("image/png"));
  } catch (error) {
    done("trouble", error.message);
  }
}

if (data.portrait) portrait();
else start();
