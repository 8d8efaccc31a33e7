"use strict";
// The page: what a click means, what is shown, and what is sent. The server holds the truth.

const $ = (id) => document.getElementById(id);
const LEFT = "#62bfd0", RIGHT = "#f0a860", MIDDLE = "#d8dbe2";

let session = null; // images, joints, poses
let image = 0; // number of the image shown
let marks = null; // everything set on it, as the server says
let person = 1; // number of the current person
let mode = "points";
let pixel = null; // a clicked pixel that waits for its body point
let point = null; // a clicked body point that waits for its pixel
let ghost = null; // the suggested body point of the open pixel
let selected = null; // number of the selected pair
let joint = 0; // index of the current key point
let overlay = false;
let fitted = null; // what the server said of the fitted body
let over = false; // the pointer is on the body's panel
let asked = 0; // counts requests whose late answers must not be shown
let saving = 0; // what the user did and is not done yet
let failed = false; // the last change was not saved
let waiting = 0; // requests under way

async function ask(path, body) {
  waiting += 1;
  try { return await answerOf(path, body); } finally { waiting -= 1; }
}

async function answerOf(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Start deformlearn annotate again; everything up to here is saved.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || `The server says ${response.status}.`);
  return answer;
}

const personOf = (number) => marks && marks.people.find((one) => one.number === number);
const now = () => personOf(person);
const colourOfJoint = (index) => {
  const name = session.joints[index];
  return name.startsWith("left") ? LEFT : name.startsWith("right") ? RIGHT : MIDDLE;
};
const spoken = (name) => name.replaceAll("_", " ");

const photo = new PhotoPanel($("photo"), $("photo-panel"), {
  click: (...given) => onImage(() => clickPhoto(...given)),
  move: (id, at) => onImage((who) => movePhoto(who, id, at)),
});

const body = new BodyPanel($("body"), $("body-panel"), {
  ask: (request) => ask("api/body", request),
  fail: complain,
  drawn: showState,
  hover: throttled(async (at) => {
    over = true;
    const found = await pick(at);
    $("body-chip").textContent = over && found.face !== null ? found.part : "";
  }),
  leave: () => { over = false; $("body-chip").textContent = ""; },
  click: (at, mark) => {
    const found = picked(at);
    onImage(() => clickBody(found, mark));
  },
  move: (id, at) => {
    const found = picked(at);
    onImage((who) => moveBody(who, id, found));
  },
});

// Of the picture that was clicked, which may be older than the view that is wanted.
const pick = (at) => ask("api/pick", { ...(body.shown || body.request()), at_x: at[0], at_y: at[1] });

// Asked at once; whoever awaits the answer in their turn is told of a failure.
function picked(at) {
  const answer = pick(at);
  answer.catch(() => {});
  return answer;
}

// At most one call at a time; of those that come meanwhile only the newest is made.
function throttled(call) {
  let busy = false, next = null;
  return async (value) => {
    next = [value];
    if (busy) return;
    busy = true;
    while (next) {
      const [newest] = next;
      next = null;
      try { await call(newest); } catch { /* the next move asks again */ }
    }
    busy = false;
  };
}

// ---- one after the other

let turn = Promise.resolve();
// What the user does waits until what was done before is answered and saved: a late answer never meets
// a later click, and a click after "add a person" is that person's.
function inTurn(act) {
  saving += 1;
  showSaved();
  turn = turn.then(act).catch(complain).finally(() => {
    saving -= 1;
    showSaved();
  });
}

// What is clicked is clicked on this image and person, whatever is shown when its turn comes.
function onImage(act) {
  const [on, who] = [image, person];
  if (now()) inTurn(() => on === image && act(who));
}

// ---- what a click means

async function clickPhoto(at, mark, shift, inside) {
  if (mode === "keypoints") {
    if (typeof mark === "string") { joint = Number(mark.slice(1)); return refresh(); }
    if (!inside) return hint("That is beside the photo.");
    return setJoint({ x: at[0], y: at[1], visibility: shift ? 1 : 2 });
  }
  if (typeof mark === "number") return select(mark);
  if (!inside) return hint("That is beside the photo: click a pixel of the person.");
  selected = null;
  pixel = at;
  ghost = null;
  if (point) return addPair();
  refresh();
  suggest();
}

async function clickBody(answer, mark) {
  if (mode === "keypoints") return hint("Key points are set on the photo; the body only shows where they are.");
  if (typeof mark === "number") return select(mark);
  const found = await answer;
  if (found.face === null) return hint("That is beside the body: click on it, or drag to turn it.");
  selected = null;
  ghost = null;
  point = found;
  if (pixel) return addPair();
  refresh();
}

async function movePhoto(who, id, [x, y]) {
  if (typeof id === "number") return edit({ edit: "move_pair", person: who, pair: id, x, y });
  const moved = Number(id.slice(1)), key = personOf(who)?.keypoints[moved];
  if (key) await edit({ edit: "set_keypoint", person: who, joint: moved, x, y, visibility: key.visibility });
}

async function moveBody(who, id, answer) {
  const found = await answer;
  if (found.face === null) return hint("That is beside the body: the point stays where it was.");
  await edit({ edit: "move_pair", person: who, pair: id, face: found.face, barycentric: found.barycentric });
}

async function addPair() {
  const [at, chosen] = [pixel, point || ghost];
  pixel = point = ghost = null;
  asked += 1;
  await edit({ edit: "add_pair", x: at[0], y: at[1], face: chosen.face, barycentric: chosen.barycentric });
}

async function suggest() {
  const [at, mine] = [pixel, ++asked];
  const one = now();
  const count = one.pairs.length + one.keypoints.filter((key) => key && key.visibility > 0).length;
  if (count < session.enough) return;
  try {
    const found = await ask(`api/suggest/${image}`, { person, x: at[0], y: at[1], pose: body.view.pose });
    if (mine !== asked || pixel !== at || point) return;
    if (found.face === null) return hint("No suggestion here: this pixel is far from the fitted body. Click the body point yourself.");
    ghost = found;
    ghost.fresh = true;
    refresh();
  } catch (error) { complain(error); }
}

// A suggestion on the far side is shown by turning the body.
function showState() {
  const shown = body.placed.find((mark) => mark.ghost);
  if (!ghost || !ghost.fresh || !shown || shown.face !== ghost.face) return;
  ghost.fresh = false;
  if (!shown.seen) body.turnTo(ghost.yaw, ghost.pitch);
}

function select(number) {
  selected = number;
  pixel = point = ghost = null;
  refresh();
}

function reveal(number) {
  const mark = body.placed.find((one) => one.id === number);
  if (mark && !mark.seen) body.turnTo(...mark.towards);
}

function cancel() {
  pixel = point = ghost = selected = null;
  asked += 1;
  refresh();
}

// ---- changes

// In its turn; whether it is saved.
async function edit(request) {
  const choosing = ["undo", "redo", "add_person"].includes(request.edit);
  try {
    const answer = await ask(`api/edit/${image}`, choosing ? request : { person, ...request });
    failed = false;
    session.images[image].people = answer.ready;
    take(answer, choosing);
  } catch (error) {
    failed = true;
    // Another page may have changed what is set here.
    await ask(`api/image/${image}`).then((answer) => take(answer), () => {});
    complain(error);
  }
  return !failed;
}

// What is set on the image now; `follow` goes to a person who was not there before.
function take(answer, follow = false) {
  const before = marks ? marks.people.map((one) => one.number) : [];
  const last = person;
  marks = answer;
  const fresh = answer.people.find((one) => !before.includes(one.number));
  if (follow && fresh) person = fresh.number;
  if (!now()) person = answer.people.at(-1).number;
  if (person !== last) pixel = point = ghost = null; // an open click was the other's
  if (!now().pairs.some((pair) => pair.number === selected)) selected = null;
  refresh();
  refreshOverlay();
}

const step = (name) => {
  if (pixel || point) return cancel(); // an open click is the last thing that happened
  if (marks[`can_${name}`]) return edit({ edit: name });
};

// The next key point is asked for when this one is saved.
async function setJoint(fields) {
  const placed = joint;
  if (!(await edit({ edit: "set_keypoint", joint: placed, ...fields }))) return;
  joint = nextJoint(placed);
  refresh();
}

function toggleHidden() {
  const key = now().keypoints[joint];
  if (!key || key.visibility === 0) return hint("Click its place on the photo first; hold Shift where it is hidden.");
  return edit({ edit: "set_keypoint", joint, x: key.x, y: key.y, visibility: key.visibility === 2 ? 1 : 2 });
}

function nextJoint(from) {
  const keys = now().keypoints;
  for (let i = 1; i <= keys.length; i += 1) {
    const next = (from + i) % keys.length;
    if (keys[next] === null) return next;
  }
  return (from + 1) % keys.length;
}

function remove() {
  if (mode === "keypoints") return now().keypoints[joint] && edit({ edit: "clear_keypoint", joint });
  if (selected !== null) return edit({ edit: "delete_pair", pair: selected });
}

async function removePerson() {
  const one = now();
  const marked = one.pairs.length || one.keypoints.some((key) => key);
  if ((await edit({ edit: "delete_person" })) && marked) hint("Person deleted. Undo brings the marks back.");
}

// ---- images

// In its turn, which does not wait for the photo: whoever leafs through many sees the last.
async function open(number) {
  if (number < 0 || number >= session.images.length) return;
  image = number;
  marks = null;
  pixel = point = ghost = selected = fitted = null;
  joint = 0;
  asked += 1;
  const mine = ++opened;
  location.hash = String(number + 1);
  const about = session.images[number];
  $("name").textContent = $("name").title = about.name;
  $("place").textContent = `image ${number + 1} of ${session.images.length}`;
  photo.marks = [];
  photo.show(null, [about.width, about.height], about.upright);
  showProgress();
  try {
    const answer = await ask(`api/image/${number}`);
    const loaded = await loadPhoto(number);
    if (mine !== opened) return;
    photo.show(loaded, [about.width, about.height], about.upright);
    person = answer.people[0].number;
    take(answer);
  } catch (error) {
    if (mine === opened) { refresh(); complain(error); }
  }
}
let opened = 0;

async function loadPhoto(number) {
  const response = await fetch(`photo/${number}`);
  if (!response.ok) throw new Error(`${(await response.json()).error}. Go on with the next image.`);
  const address = URL.createObjectURL(await response.blob());
  try { return await loadImage(address); } finally { URL.revokeObjectURL(address); }
}

// ---- what is shown

function refresh() {
  const one = now();
  $("points").setAttribute("aria-pressed", mode === "points");
  $("keypoints").setAttribute("aria-pressed", mode === "keypoints");
  $("overlay").setAttribute("aria-pressed", overlay);
  $("spread").setAttribute("aria-pressed", body.view.pose === "spread");
  $("previous").disabled = image === 0;
  $("next").disabled = image === session.images.length - 1;
  $("undo").disabled = !(marks && (marks.can_undo || pixel || point));
  $("redo").disabled = !(marks && marks.can_redo);
  photo.marks = one ? photoMarks(one) : [];
  photo.draw();
  body.showJoints = one && mode === "keypoints"
    ? { current: joint, mark: (index) => ({ colour: colourOfJoint(index), label: index === joint ? spoken(session.joints[index]) : "" }) }
    : null;
  body.setPoints(one && mode === "points" ? bodyPoints(one) : []);
  showPeople();
  showList(one);
  showStart(one);
  showProgress();
  hint(one ? nextStep(one) : "");
}

function photoMarks(one) {
  const found = [];
  for (const other of marks.people) {
    if (other.number === person) continue;
    for (const { x, y } of other.pairs) found.push({ id: null, at: [x, y], colour: "#8b95a5", faint: true });
  }
  if (mode === "points") {
    for (const pair of one.pairs) {
      found.push({ id: pair.number, at: [pair.x, pair.y], colour: colourOf(pair.number), label: String(pair.number), selected: pair.number === selected });
    }
    if (pixel) found.push({ id: null, at: pixel, colour: colourOf(one.next_pair), label: String(one.next_pair), selected: true });
  }
  one.keypoints.forEach((key, index) => {
    if (!key || key.visibility === 0) return;
    const current = mode === "keypoints" && index === joint;
    // Eyes are close together: only a click right on a key point means that one.
    found.push({
      id: mode === "keypoints" ? `k${index}` : null, reach: 6, at: [key.x, key.y], colour: colourOfJoint(index),
      label: current ? spoken(session.joints[index]) : "", selected: current, hollow: key.visibility === 1, faint: mode === "points",
    });
  });
  return found;
}

function bodyPoints(one) {
  const found = one.pairs.map((pair) => ({
    id: pair.number, face: pair.face, barycentric: pair.barycentric, colour: colourOf(pair.number),
    label: String(pair.number), selected: pair.number === selected,
  }));
  const open_ = { id: null, colour: colourOf(one.next_pair), selected: true };
  if (point) found.push({ ...open_, face: point.face, barycentric: point.barycentric, label: String(one.next_pair) });
  else if (ghost) found.push({ ...open_, ghost: true, face: ghost.face, barycentric: ghost.barycentric, label: "suggested", hollow: true });
  return found;
}

function nextStep(one) {
  if (mode === "keypoints") {
    const name = spoken(session.joints[joint]);
    return `Click the ${name} on the photo. Shift+click where it is hidden, X if it is not in the picture, Tab for the next one.`;
  }
  if (ghost) return `Suggested: ${ghost.part}. Enter accepts it, or click the right point of the body.`;
  if (pixel) return "Now click the same spot on the body. Drag to turn it, wheel to zoom, Esc to forget this click.";
  if (point) return `Now click where the ${point.part} is on the photo.`;
  if (selected !== null) return `Pair ${selected}: drag either point to move it, Delete removes it.`;
  const count = one.pairs.length + one.keypoints.filter((key) => key && key.visibility > 0).length;
  if (overlay && fitted && fitted.picture) return `Fitted body: half of the marks are within ${fitted.distance_px.toFixed(1)} px of it. Check that left and right are the person's own.`;
  if (count < session.enough) return `Click a spot on the person. From ${session.enough} pairs or key points on, the next ones are suggested.`;
  return "Click a spot on the person; its place on the body will be suggested.";
}

function showStart(one) {
  $("start").hidden = !one || one.pairs.length > 0 || mode !== "points";
  $("enough").textContent = session.enough;
}

function showPeople() {
  const row = $("people");
  row.replaceChildren();
  if (!marks) return;
  marks.people.forEach((one) => {
    const button = Object.assign(document.createElement("button"), {
      textContent: `Person ${one.number}`, title: `${one.pairs.length} pairs ([ and ])`,
      onclick: () => inTurn(() => choose(one.number)),
    });
    button.setAttribute("aria-pressed", one.number === person);
    row.append(button);
  });
  row.append(Object.assign(document.createElement("button"), { id: "add-person", textContent: "Add", title: "Add a person (A)", onclick: () => inTurn(addPerson) }));
  const one = now();
  if (marks.people.length > 1 || one.pairs.length || one.keypoints.some((key) => key)) {
    row.append(Object.assign(document.createElement("button"), { id: "delete-person", textContent: "Delete", title: "Delete this person and all their marks", onclick: () => inTurn(removePerson) }));
  }
}

function addPerson() { pixel = point = ghost = selected = null; joint = 0; return edit({ edit: "add_person" }); }

function choose(number) {
  person = number;
  joint = 0;
  cancel();
  refreshOverlay();
}

function showList(one) {
  const list = $("list");
  list.replaceChildren();
  if (!one) { $("list-title").textContent = ""; return; }
  if (mode === "keypoints") {
    const set = one.keypoints.filter((key) => key).length;
    $("list-title").textContent = `Key points: ${set} of ${one.keypoints.length} set`;
    one.keypoints.forEach((key, index) => {
      const state = key === null ? "" : ["not there", "hidden", ""][key.visibility];
      list.append(item({
        what: spoken(session.joints[index]), colour: key && key.visibility ? colourOfJoint(index) : null, hidden: key && key.visibility === 1,
        state, current: index === joint, choose: () => inTurn(() => { joint = index; refresh(); }),
      }));
    });
  } else {
    const few = one.pairs.length > 0 && one.pairs.length < session.enough && !one.keypoints.some((key) => key && key.visibility > 0);
    $("list-title").textContent = few ? `Pairs: ${one.pairs.length}, ${session.enough - one.pairs.length} more to enter the data set` : `Pairs: ${one.pairs.length}`;
    for (const pair of one.pairs) {
      list.append(item({
        number: pair.number, what: pair.part, colour: colourOf(pair.number), current: pair.number === selected,
        choose: () => inTurn(() => { select(pair.number); reveal(pair.number); }),
        remove: () => inTurn(() => edit({ edit: "delete_pair", person: one.number, pair: pair.number })),
      }));
    }
  }
  const current = list.querySelector(".current");
  if (current) current.scrollIntoView({ block: "nearest" });
}

function item({ number, what, colour, hidden, state, current, choose, remove }) {
  const row = document.createElement("li");
  const add = (tag, name, text) => row.appendChild(Object.assign(document.createElement(tag), { className: name, textContent: text }));
  if (number !== undefined) add("span", "number", number);
  const dot = add("span", hidden ? "dot hidden" : "dot", "");
  if (colour) dot.style.setProperty("--dot", colour);
  add("span", "what", what);
  if (state) add("small", "", state);
  if (remove) {
    const button = add("button", "remove", "×");
    button.title = `Delete pair ${number}`;
    button.onclick = (event) => { event.stopPropagation(); remove(); };
  }
  row.classList.toggle("current", current);
  row.onclick = choose;
  return row;
}

function showProgress() {
  const done = session.images.filter((one) => one.people > 0).length;
  const people = session.images.reduce((sum, one) => sum + one.people, 0);
  $("bar").style.width = `${(100 * done) / session.images.length}%`;
  $("progress").textContent = `${done} of ${session.images.length} images, ${people} ${people === 1 ? "person" : "people"}`;
}

function showSaved() {
  const label = $("saved");
  label.className = failed ? "bad" : saving ? "busy" : "";
  label.textContent = failed ? "The last change was not saved" : saving ? "Saving …" : "Saved";
}

function hint(text, bad = false) {
  $("hint").textContent = $("hint").title = text;
  $("hint").className = bad ? "bad" : "";
}

function complain(error) { hint(error.message, true); }

async function refreshOverlay() {
  const one = now();
  // The last picture of the same person stays until the next one is there.
  if (!overlay || !one || (photo.body && photo.body.person !== person)) {
    fitted = photo.body = null;
    photo.draw();
  }
  if (!overlay || !one) return;
  // Quick clicks: only the newest state is fitted, not every one in between.
  if (fitting) { fitAgain = true; return; }
  fitting = true;
  try {
    await fetchOverlay(one);
  } catch (error) {
    complain(error);
  } finally {
    fitting = false;
  }
  if (fitAgain) { fitAgain = false; refreshOverlay(); }
}
let fitting = false, fitAgain = false;

async function fetchOverlay(one) {
  const answer = await ask(`api/overlay/${image}`, { person: one.number });
  if (one !== now() || !overlay) return;
  fitted = answer;
  if (!answer.picture) {
    photo.body = null;
    photo.draw();
    return hint(`The body can be fitted from ${session.enough} pairs or key points on.`);
  }
  const picture = await loadImage(answer.picture);
  if (one !== now() || !overlay) return;
  photo.body = { image: picture, square: answer.square, person };
  photo.draw();
  if (!pixel && !point && selected === null) hint(nextStep(one));
}

// ---- buttons and keys

function toggleMode(wanted) {
  mode = wanted || (mode === "points" ? "keypoints" : "points");
  if (mode === "keypoints" && now() && now().keypoints[joint]) joint = nextJoint(joint);
  cancel();
}
function toggleOverlay() { overlay = !overlay; refresh(); refreshOverlay(); }
function togglePose() {
  body.setPose(body.view.pose === "spread" ? "rest" : "spread");
  refresh();
}
function nextPerson(by) {
  const at = marks.people.findIndex((one) => one.number === person);
  choose(marks.people[(at + by + marks.people.length) % marks.people.length].number);
}
function moveJoint(by) {
  joint = (joint + by + session.joints.length) % session.joints.length;
  refresh();
}

const leaf = (by) => { open(image + by); };

const KEYS = {
  ArrowLeft: () => leaf(-1), PageUp: () => leaf(-1), ArrowRight: () => leaf(1), PageDown: () => leaf(1),
  "?": () => $("keys").showModal(),
};
// Those that need an image to be shown; a promise is waited for.
const KEYS_OF_IMAGE = {
  Enter: () => pixel && ghost && addPair(),
  Escape: cancel, Delete: remove, Backspace: remove,
  k: () => toggleMode(), o: toggleOverlay, t: togglePose, f: () => photo.fit(), r: () => photo.rotate(),
  a: addPerson, "[": () => nextPerson(-1), "]": () => nextPerson(1),
  v: () => mode === "keypoints" && toggleHidden(), x: () => mode === "keypoints" && setJoint({ visibility: 0 }),
  1: () => body.look("front"), 2: () => body.look("back"), 3: () => body.look("left"), 4: () => body.look("right"),
};

window.addEventListener("keydown", (event) => {
  if ($("keys").open || !session || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const control = event.ctrlKey || event.metaKey;
  if (control && (key === "z" || key === "y")) {
    event.preventDefault();
    return inTurn(() => marks && step(key === "y" || event.shiftKey ? "redo" : "undo"));
  }
  if (control) return;
  if (event.code === "Space") return event.preventDefault(); // it moves things, and presses no button
  if (key === "Tab" && mode === "keypoints") {
    event.preventDefault();
    return inTurn(() => moveJoint(event.shiftKey ? -1 : 1));
  }
  const pressed = document.activeElement instanceof HTMLButtonElement && key === "Enter" && !ghost;
  const act = KEYS[key] || (marks && KEYS_OF_IMAGE[key]);
  if (!act || pressed) return;
  event.preventDefault();
  inTurn(() => (key in KEYS || marks) && act());
});

// What waits for its turn would be gone with the page.
window.addEventListener("beforeunload", (event) => { if (saving) event.preventDefault(); });

const onPress = (id, act) => { $(id).onclick = () => inTurn(act); };
onPress("previous", () => leaf(-1));
onPress("next", () => leaf(1));
onPress("points", () => toggleMode("points"));
onPress("keypoints", () => toggleMode("keypoints"));
onPress("undo", () => marks && step("undo"));
onPress("redo", () => marks && step("redo"));
onPress("overlay", toggleOverlay);
onPress("help", () => $("keys").showModal());
onPress("fit", () => photo.fit());
onPress("rotate", () => photo.rotate());
onPress("spread", togglePose);
for (const button of document.querySelectorAll("[data-view]")) button.onclick = () => body.look(button.dataset.view);

async function start() {
  try {
    session = await ask("api/session");
    document.title = `Annotate: ${session.out.split("/").pop()}`;
    $("saved").title = `Everything is in ${session.out}`;
    if (session.skipped.length) {
      $("skipped").textContent = "Left out:\n" + session.skipped.map((one) => `${one.where}: ${one.reason}`).join("\n");
    }
    const asked = Number(location.hash.slice(1)) - 1;
    const first = session.images.findIndex((one) => one.people === 0);
    await open(session.images[asked] ? asked : Math.max(first, 0));
    if (session.skipped.length) hint(`${session.skipped.length} files cannot be read and are left out; ? lists them.`, true);
  } catch (error) { complain(error); }
}
start();
