"use strict";
// The two panels: the photo with its marks, and the body as the server draws it.

const HIT = 11; // pixels from a mark within which a click means it
const CLICK = 4; // pixels a pointer may move and still click

function colourOf(number) {
  // The golden angle keeps neighbours in number apart in colour.
  return `hsl(${(number * 137.508 + 20) % 360} 85% 66%)`;
}

function sizeCanvas(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function drawMark(context, x, y, mark) {
  const radius = mark.selected ? 7 : 5;
  context.save();
  context.globalAlpha = mark.faint ? 0.45 : 1;
  context.lineWidth = 4;
  context.strokeStyle = "#0b0d10cc";
  context.setLineDash([]);
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.stroke();
  context.lineWidth = 2;
  context.strokeStyle = mark.colour;
  if (mark.hollow) {
    context.setLineDash([3, 2.5]);
  } else {
    context.fillStyle = mark.colour;
    context.globalAlpha *= 0.55;
    context.fill();
    context.globalAlpha = mark.faint ? 0.45 : 1;
  }
  context.stroke();
  context.setLineDash([]);
  context.fillStyle = "#fff";
  context.beginPath();
  context.arc(x, y, 1.3, 0, 2 * Math.PI);
  context.fill();
  if (mark.label) {
    context.font = `${mark.selected ? 600 : 500} 12.5px system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif`;
    context.lineWidth = 3.5;
    context.lineJoin = "round";
    context.strokeStyle = "#0b0d10dd";
    context.strokeText(mark.label, x + radius + 4, y - 4);
    context.fillStyle = "#fff";
    context.fillText(mark.label, x + radius + 4, y - 4);
  }
  context.restore();
}

// Pointer, wheel and space bar of one canvas, told as clicks, moved marks and drags.
class Pointer {
  constructor(canvas, panel, on) {
    this.spaceDown = false;
    let start = null;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 1) return;
      event.preventDefault();
      const at = place(event);
      const shifting = event.button === 1 || this.spaceDown;
      start = { at, last: at, shifting, moved: false, mark: shifting ? null : on.hit(at) };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const at = place(event);
      if (!start) return on.hover(at);
      if (!start.moved && Math.hypot(at[0] - start.at[0], at[1] - start.at[1]) < CLICK) return;
      start.moved = true;
      panel.classList.add("moving");
      if (start.mark !== null) on.dragMark(start.mark, at);
      else on.drag(at[0] - start.last[0], at[1] - start.last[1], start.shifting);
      start.last = at;
    });
    const end = (event, cancelled) => {
      if (!start) return;
      const now = start;
      start = null;
      panel.classList.remove("moving");
      if (now.moved && now.mark !== null) on.dropMark(now.mark, cancelled ? null : place(event));
      else if (now.moved) on.dragEnd();
      else if (!now.shifting && !cancelled) on.click(place(event), now.mark, event.shiftKey);
    };
    canvas.addEventListener("pointerup", (event) => end(event, false));
    canvas.addEventListener("pointercancel", (event) => end(event, true));
    canvas.addEventListener("pointerleave", () => start || on.leave());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const step = event.deltaMode === 1 ? 30 : 1;
      on.zoom(place(event), Math.exp(-Math.max(-200, Math.min(200, event.deltaY * step)) / 500));
    }, { passive: false });
    window.addEventListener("keydown", (event) => { if (event.code === "Space") this.spaceDown = true; });
    window.addEventListener("keyup", (event) => { if (event.code === "Space") this.spaceDown = false; });
    window.addEventListener("blur", () => { this.spaceDown = false; });
  }
}

class PhotoPanel {
  constructor(canvas, panel, on) {
    this.canvas = canvas;
    this.on = on;
    this.image = null;
    this.size = [1, 1];
    this.turn = [1, 0, 0, 1]; // stored offsets from the middle to those on the screen
    this.scale = 1;
    this.middle = [0, 0]; // of the photo, on the screen
    this.touched = false; // the user chose what to see
    this.marks = [];
    this.body = null;
    this.dragged = null;
    this.pointer = new Pointer(canvas, panel, {
      hit: (at) => this.hit(at),
      hover: () => {},
      leave: () => {},
      click: (at, mark, shift) => on.click(this.toPixel(at), mark, shift, this.holds(at)),
      dragMark: (mark, at) => { this.dragged = { id: mark, at: this.clamped(at) }; this.draw(); },
      dropMark: (mark, at) => { this.dragged = null; if (at) on.move(mark, this.toPixel(this.clamped(at))); this.draw(); },
      drag: (dx, dy) => { this.touched = true; this.middle = [this.middle[0] + dx, this.middle[1] + dy]; this.draw(); },
      dragEnd: () => {},
      zoom: (at, factor) => this.zoom(at, factor),
    });
    new ResizeObserver(() => { if (!this.touched) this.fit(); this.draw(); }).observe(canvas);
  }

  show(image, size, upright) {
    this.image = image;
    this.size = size;
    this.turn = upright;
    this.body = null;
    this.fit();
  }

  rotate() {
    const [a, b, c, d] = this.turn;
    this.turn = [-c, -d, a, b]; // a quarter clockwise after what was there
    this.fit();
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const [w, h] = this.turn[0] ? this.size : [this.size[1], this.size[0]];
    this.scale = Math.min((width - 24) / w, (height - 24) / h);
    this.middle = [width / 2, height / 2];
    this.touched = false;
    this.draw();
  }

  zoom(at, factor) {
    const smallest = 0.3 * Math.min(this.canvas.clientWidth / this.size[0], this.canvas.clientHeight / this.size[1]);
    const scale = Math.max(Math.min(smallest, 1), Math.min(40, this.scale * factor));
    const ratio = scale / this.scale;
    this.middle = this.middle.map((m, axis) => at[axis] + (m - at[axis]) * ratio);
    this.scale = scale;
    this.touched = true;
    this.draw();
  }

  toScreen([x, y]) {
    const [a, b, c, d] = this.turn;
    const [dx, dy] = [x - this.size[0] / 2, y - this.size[1] / 2];
    return [this.middle[0] + this.scale * (a * dx + b * dy), this.middle[1] + this.scale * (c * dx + d * dy)];
  }

  toPixel([x, y]) {
    const [a, b, c, d] = this.turn; // orthogonal: the transpose undoes it
    const [dx, dy] = [(x - this.middle[0]) / this.scale, (y - this.middle[1]) / this.scale];
    return [this.size[0] / 2 + a * dx + c * dy, this.size[1] / 2 + b * dx + d * dy];
  }

  holds(at) {
    const [x, y] = this.toPixel(at);
    return x >= 0 && y >= 0 && x <= this.size[0] && y <= this.size[1];
  }

  clamped(at) {
    const pixel = this.toPixel(at);
    return this.toScreen(pixel.map((value, axis) => Math.max(0, Math.min(this.size[axis], value))));
  }

  hit(at) {
    let best = null, least = 1;
    for (const mark of this.marks) {
      if (mark.id === null) continue;
      const [x, y] = this.toScreen(mark.at);
      const away = Math.hypot(x - at[0], y - at[1]) / (mark.reach || HIT);
      if (away < least) [best, least] = [mark.id, away];
    }
    return best;
  }

  draw() {
    const context = sizeCanvas(this.canvas);
    if (!this.image) return;
    const [a, b, c, d] = this.turn;
    context.save();
    context.translate(...this.middle);
    context.transform(this.scale * a, this.scale * c, this.scale * b, this.scale * d, 0, 0);
    context.translate(-this.size[0] / 2, -this.size[1] / 2);
    context.imageSmoothingEnabled = this.scale < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.image, 0, 0, this.size[0], this.size[1]);
    if (this.body) {
      const [x, y, side] = this.body.square;
      context.imageSmoothingEnabled = true;
      context.globalAlpha = 0.72;
      context.drawImage(this.body.image, x, y, side, side);
    }
    context.restore();
    for (const mark of this.marks) {
      const moving = this.dragged && this.dragged.id === mark.id;
      const [x, y] = moving ? this.dragged.at : this.toScreen(mark.at);
      drawMark(context, x, y, mark);
    }
  }
}

const VIEWS = { front: [0, 0], back: [180, 0], left: [90, 0], right: [-90, 0] };

class BodyPanel {
  constructor(canvas, panel, on) {
    this.canvas = canvas;
    this.on = on;
    this.view = { yaw: 0, pitch: 0, zoom: 1, x: 0, y: 0, pose: "rest" };
    this.picture = null;
    this.metre = 100; // panel pixels a metre
    this.points = []; // what is to be placed: {id, face, barycentric, colour, label, ...}
    this.placed = []; // the same with their places under the view drawn last
    this.joints = [];
    this.showJoints = null; // index of the key point to show, or null for none
    this.wanted = this.drawn = 0;
    this.shown = null; // the request that the picture answers
    this.busy = false;
    this.dragged = null;
    this.waiting = null;
    this.pointer = new Pointer(canvas, panel, {
      hit: (at) => this.hit(at),
      hover: (at) => on.hover(at),
      leave: () => on.leave(),
      click: (at, mark) => on.click(at, mark),
      dragMark: (mark, at) => { this.dragged = { id: mark, at }; this.draw(); },
      dropMark: (mark, at) => { this.dragged = null; if (at) on.move(mark, at); this.draw(); },
      drag: (dx, dy, shifting) => this.drag(dx, dy, shifting),
      dragEnd: () => this.settle(),
      zoom: (at, factor) => this.zoom(at, factor),
    });
    new ResizeObserver(() => this.render()).observe(canvas);
  }

  request() {
    return { ...this.view, width: Math.max(1, this.canvas.clientWidth), height: Math.max(1, this.canvas.clientHeight) };
  }

  drag(dx, dy, shifting) {
    if (shifting) {
      this.view.x += dx / this.metre;
      this.view.y += dy / this.metre;
    } else {
      this.view.yaw = wrapped(this.view.yaw - dx * 0.5);
      this.view.pitch = Math.max(-90, Math.min(90, this.view.pitch + dy * 0.5));
    }
    this.render(true);
    this.settle(160);
  }

  zoom(at, factor) {
    const zoom = Math.max(0.5, Math.min(40, this.view.zoom * factor));
    const metre = this.metre * (zoom / this.view.zoom);
    const [cx, cy] = [at[0] - this.canvas.clientWidth / 2, at[1] - this.canvas.clientHeight / 2];
    this.view.x += cx / metre - cx / this.metre;
    this.view.y += cy / metre - cy / this.metre;
    this.view.zoom = zoom;
    this.metre = metre;
    this.render(true);
    this.settle(160);
  }

  look(name) {
    const [yaw, pitch] = VIEWS[name];
    Object.assign(this.view, { zoom: 1, x: 0, y: 0 });
    this.turnTo(yaw, pitch);
  }

  setPose(pose) {
    this.view.pose = pose;
    this.render();
  }

  // Turn smoothly, so that the eye keeps left and right apart.
  turnTo(yaw, pitch) {
    const from = { ...this.view };
    const [dyaw, dpitch] = [wrapped(yaw - from.yaw), pitch - from.pitch];
    const started = performance.now();
    const turning = (this.turning = {});
    const step = () => {
      if (this.turning !== turning) return;
      const t = Math.min(1, (performance.now() - started) / 260);
      const eased = t * t * (3 - 2 * t);
      this.view.yaw = wrapped(from.yaw + dyaw * eased);
      this.view.pitch = from.pitch + dpitch * eased;
      this.render(t < 1);
      if (t < 1) requestAnimationFrame(step);
    };
    step();
  }

  settle(after = 0) {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.render(), after);
  }

  setPoints(points) {
    this.points = points;
    this.render();
  }

  // One request at a time; what changed meanwhile is asked for when it is back.
  async render(coarse = false) {
    this.wanted += 1;
    this.coarse = coarse;
    if (this.busy) return;
    this.busy = true;
    try {
      while (this.drawn !== this.wanted) {
        const goal = this.wanted;
        const points = this.points;
        const asked = points.map(({ face, barycentric }) => ({ face, barycentric }));
        const view = this.request();
        const answer = await this.on.ask({ ...view, coarse: this.coarse, points: asked });
        this.picture = await loadImage(answer.picture);
        this.shown = view;
        this.metre = answer.pixels_per_metre;
        this.placed = points.map((point, i) => ({
          ...point, at: answer.points[i].slice(0, 2), seen: answer.points[i][2], towards: answer.points[i].slice(3),
        }));
        this.joints = answer.keypoints;
        this.drawn = goal;
        this.draw();
      }
    } catch (error) {
      this.drawn = this.wanted;
      this.on.fail(error);
    } finally {
      this.busy = false;
      this.on.drawn();
    }
  }

  hit(at) {
    let best = null, least = HIT;
    for (const mark of this.placed) {
      if (mark.id === null || !mark.seen) continue;
      const away = Math.hypot(mark.at[0] - at[0], mark.at[1] - at[1]);
      if (away < least) [best, least] = [mark.id, away];
    }
    return best;
  }

  draw() {
    const context = sizeCanvas(this.canvas);
    if (!this.picture) return;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, 0, 0, this.canvas.clientWidth, this.canvas.clientHeight);
    for (const mark of this.placed) {
      if (!mark.seen && !mark.selected) continue;
      const moving = this.dragged && this.dragged.id === mark.id;
      const [x, y] = moving ? this.dragged.at : mark.at;
      drawMark(context, x, y, { ...mark, hollow: mark.hollow || !mark.seen, faint: !mark.seen });
    }
    if (this.showJoints !== null) {
      this.joints.forEach(([x, y], joint) => {
        const current = joint === this.showJoints.current;
        drawMark(context, x, y, { ...this.showJoints.mark(joint), selected: current, faint: !current, hollow: !current });
      });
    }
  }
}

function wrapped(degrees) {
  return ((degrees + 180) % 360 + 360) % 360 - 180;
}

function loadImage(source) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("the picture cannot be shown"));
    image.src = source;
  });
}
