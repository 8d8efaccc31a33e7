"use strict";
/* A small orthographic renderer: lit meshes, a photograph, round dots and thick lines (WebGL 2).

   Everything is in view axes: x right and y up across the photograph in [-1, 1], z towards the viewer. */

const SHADERS = {
  mesh: [
    `in vec3 position; in vec3 normal; in vec3 colour; out vec3 n; out vec3 c;
     void main() { n = turn * normal; c = colour; gl_Position = place(position); }`,
    `in vec3 n; in vec3 c; uniform float opacity;
     void main() {
       vec3 m = normalize(n) * (gl_FrontFacing ? 1.0 : -1.0);
       float diffuse = 0.34 + 0.58 * max(dot(m, normalize(vec3(-0.45, 0.6, 0.7))), 0.0)
         + 0.18 * max(dot(m, normalize(vec3(0.85, 0.05, 0.35))), 0.0)
         + 0.10 * max(dot(m, vec3(0.0, 1.0, 0.0)), 0.0);
       float gloss = pow(max(dot(m, normalize(vec3(-0.25, 0.35, 1.0))), 0.0), 40.0);
       float edge = 0.72 + 0.28 * sqrt(clamp(m.z, 0.0, 1.0));
       seen = vec4(clamp(c * diffuse * edge + 0.08 * gloss, 0.0, 1.0), opacity);
     }`,
  ],
  photo: [
    `in vec2 corner; uniform float depth; out vec2 at;
     void main() { at = vec2(corner.x, -corner.y) * 0.5 + 0.5; gl_Position = place(vec3(corner, depth)); }`,
    `in vec2 at; uniform sampler2D pixels;
     void main() { seen = vec4(texture(pixels, at).rgb * (gl_FrontFacing ? 1.0 : 0.55), 1.0); }`,
  ],
  dots: [
    `in vec3 position; in vec3 colour; uniform float size; out vec3 c;
     void main() { c = colour; gl_Position = place(position); gl_PointSize = size; }`,
    `in vec3 c;
     void main() {
       float r = length(gl_PointCoord - 0.5) * 2.0;
       if (r > 1.0) discard;
       seen = vec4(mix(c, c * 0.35, smoothstep(0.68, 0.8, r)), 1.0);
     }`,
  ],
  lines: [
    `in vec3 from; in vec3 to; in vec3 colour; in vec2 corner; uniform float width; uniform vec2 screen; out vec3 c;
     void main() {
       c = colour;
       vec4 a = place(from), b = place(to);
       vec2 along = (b.xy - a.xy) * screen;
       vec2 across = length(along) < 1e-4 ? vec2(0.0) : normalize(vec2(-along.y, along.x));
       gl_Position = mix(a, b, corner.x);
       gl_Position.xy += across * corner.y * width / screen;
     }`,
    `in vec3 c; void main() { seen = vec4(c, 1.0); }`,
  ],
};

const COMMON = `#version 300 es
precision highp float;
uniform mat3 turn; uniform vec3 target; uniform vec2 stretch; uniform vec2 pan;
vec4 place(vec3 p) { vec3 q = turn * (p - target); return vec4(q.xy * stretch + pan, -q.z * 0.1, 1.0); }
`;

class Scene {
  constructor(canvas) {
    this.canvas = canvas;
    const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true, alpha: false });
    if (!gl) throw new Error("this browser has no WebGL 2, which the picture is drawn with");
    this.gl = gl;
    this.programs = {};
    for (const [name, parts] of Object.entries(SHADERS)) this.programs[name] = this.program(...parts);
    this.quad = this.buffer(new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]));
    this.ribbon = this.buffer(new Float32Array([0, -1, 0, 1, 1, -1, 1, 1]));
    this.picture = null;
    this.marks = {};
    this.meshes = {};
  }

  program(vertex, fragment) {
    const gl = this.gl, program = gl.createProgram();
    const head = "#version 300 es\nprecision highp float;\nout vec4 seen;\n";
    for (const [kind, text] of [[gl.VERTEX_SHADER, COMMON + vertex], [gl.FRAGMENT_SHADER, head + fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    return program;
  }

  buffer(values, old, kind = this.gl.ARRAY_BUFFER) {
    const gl = this.gl, buffer = old || gl.createBuffer();
    gl.bindBuffer(kind, buffer);
    gl.bufferData(kind, values, gl.DYNAMIC_DRAW);
    return buffer;
  }

  /* `pixels`: an image, or {width, height, data} of RGB bytes. */
  setPhoto(pixels, depth) {
    const gl = this.gl;
    if (this.picture) gl.deleteTexture(this.picture.texture);
    this.picture = null;
    if (!pixels) return;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    if (pixels.data) gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, pixels.width, pixels.height, 0, gl.RGB, gl.UNSIGNED_BYTE, pixels.data);
    else gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, pixels);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    this.picture = { texture, depth };
  }

  /* Vertices as x y z x y z ...; colours 0 to 1, one for all or one each. */
  setMesh(name, vertices, faces, colours) {
    const gl = this.gl, mesh = this.meshes[name] || {};
    mesh.vertices = vertices;
    mesh.position = this.buffer(vertices, mesh.position);
    mesh.normal = this.buffer(normals(vertices, faces), mesh.normal);
    if (mesh.faces !== faces) mesh.index = this.buffer(faces, mesh.index, gl.ELEMENT_ARRAY_BUFFER);
    mesh.faces = faces;
    mesh.one = colours.length === 3 ? colours : null;
    if (!mesh.one) mesh.colour = this.buffer(colours, mesh.colour);
    this.meshes[name] = mesh;
  }

  removeMesh(name) { delete this.meshes[name]; }

  /* `marks`: placed, found (positions), colours, lineColours (0 to 1), count, both. */
  setMarks(name, marks) {
    const old = this.marks[name] || {};
    this.marks[name] = {
      count: marks.count, both: marks.both, placed: this.buffer(marks.placed, old.placed),
      found: this.buffer(marks.found, old.found), colours: this.buffer(marks.colours, old.colours),
      lineColours: this.buffer(marks.lineColours, old.lineColours),
    };
  }

  clear(background) {
    const gl = this.gl;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.SCISSOR_TEST);
    gl.clearColor(...background, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  }

  /* `view`: yaw, pitch (degrees), target, extent, pan. `show`: photo, body, start, points, keypoints, lines
     (booleans), opacity. `box`: x, y, width, height in pixels of the canvas. */
  draw(view, show, box) {
    const gl = this.gl;
    gl.viewport(box.x, box.y, box.width, box.height);
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    const least = Math.min(box.width, box.height) / view.extent;
    const shared = {
      turn: turned(view.yaw, view.pitch), target: view.target, pan: view.pan || [0, 0],
      stretch: [least / box.width, least / box.height],
    };
    const unit = least / 2; // pixels of one image unit
    if (show.photo && this.picture) this.drawPhoto(shared);
    if (show.body && this.meshes.body) this.drawMesh(this.meshes.body, shared, show.opacity);
    for (const [name, size] of [["points", 0.026], ["keypoints", 0.046]]) {
      const marks = this.marks[name];
      if (!show[name] || !marks || !marks.count) continue;
      if (show.lines) this.drawLines(marks, shared, Math.max(1.5, 0.007 * unit), box);
      this.drawDots(marks.placed, marks, shared, Math.max(4, size * unit));
      if (marks.both) this.drawDots(marks.found, marks, shared, Math.max(4, size * unit));
    }
    if (show.start && this.meshes.start) this.drawMesh(this.meshes.start, shared, 0.45);
  }

  begin(name, shared) {
    const gl = this.gl, program = this.programs[name];
    gl.useProgram(program);
    const at = (key) => gl.getUniformLocation(program, key);
    gl.uniformMatrix3fv(at("turn"), false, shared.turn);
    gl.uniform3fv(at("target"), shared.target);
    gl.uniform2fv(at("stretch"), shared.stretch);
    gl.uniform2fv(at("pan"), shared.pan);
    for (let i = 0; i < 8; i++) { gl.disableVertexAttribArray(i); gl.vertexAttribDivisor(i, 0); }
    return at;
  }

  attribute(program, name, buffer, size, divisor = 0) {
    const gl = this.gl, place = gl.getAttribLocation(this.programs[program], name);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, gl.FLOAT, false, 0, 0);
    gl.vertexAttribDivisor(place, divisor);
  }

  drawMesh(mesh, shared, opacity) {
    const gl = this.gl, at = this.begin("mesh", shared);
    this.attribute("mesh", "position", mesh.position, 3);
    this.attribute("mesh", "normal", mesh.normal, 3);
    if (mesh.one) gl.vertexAttrib3fv(gl.getAttribLocation(this.programs.mesh, "colour"), mesh.one);
    else this.attribute("mesh", "colour", mesh.colour, 3);
    gl.uniform1f(at("opacity"), opacity);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, mesh.index);
    if (opacity < 1) { // first depth alone, so that one layer of the body is seen and no more
      gl.colorMask(false, false, false, false);
      gl.drawElements(gl.TRIANGLES, mesh.faces.length, gl.UNSIGNED_INT, 0);
      gl.colorMask(true, true, true, true);
      gl.depthFunc(gl.LEQUAL);
    }
    gl.drawElements(gl.TRIANGLES, mesh.faces.length, gl.UNSIGNED_INT, 0);
    gl.depthFunc(gl.LESS);
  }

  drawPhoto(shared) {
    const gl = this.gl, at = this.begin("photo", shared);
    this.attribute("photo", "corner", this.quad, 2);
    gl.bindTexture(gl.TEXTURE_2D, this.picture.texture);
    gl.uniform1f(at("depth"), this.picture.depth);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  drawDots(places, marks, shared, size) {
    const gl = this.gl, at = this.begin("dots", shared);
    this.attribute("dots", "position", places, 3);
    this.attribute("dots", "colour", marks.colours, 3);
    gl.uniform1f(at("size"), size);
    gl.drawArrays(gl.POINTS, 0, marks.count);
  }

  drawLines(marks, shared, width, box) {
    const gl = this.gl, at = this.begin("lines", shared);
    this.attribute("lines", "from", marks.placed, 3, 1);
    this.attribute("lines", "to", marks.found, 3, 1);
    this.attribute("lines", "colour", marks.lineColours, 3, 1);
    this.attribute("lines", "corner", this.ribbon, 2);
    gl.uniform1f(at("width"), width);
    gl.uniform2f(at("screen"), box.width, box.height);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, marks.count);
  }
}

/* Rotation (column by column) that turns the scene by `yaw` about the vertical, then tips it by `pitch`. */
function turned(yaw, pitch) {
  const a = (-yaw * Math.PI) / 180, b = (pitch * Math.PI) / 180;
  const [ca, sa, cb, sb] = [Math.cos(a), Math.sin(a), Math.cos(b), Math.sin(b)];
  return new Float32Array([ca, sa * sb, -sa * cb, 0, cb, sb, sa, -ca * sb, ca * cb]);
}

function normals(vertices, faces) {
  const found = new Float32Array(vertices.length);
  for (let f = 0; f < faces.length; f += 3) {
    const [i, j, k] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
    const ax = vertices[j] - vertices[i], ay = vertices[j + 1] - vertices[i + 1], az = vertices[j + 2] - vertices[i + 2];
    const bx = vertices[k] - vertices[i], by = vertices[k + 1] - vertices[i + 1], bz = vertices[k + 2] - vertices[i + 2];
    const nx = ay * bz - az * by, ny = az * bx - ax * bz, nz = ax * by - ay * bx;
    for (const at of [i, j, k]) { found[at] += nx; found[at + 1] += ny; found[at + 2] += nz; }
  }
  return found;
}
