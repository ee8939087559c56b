// @ts-check
// Canvases to draw on: one for each class, and one to be named. A drawing is sent when the pen is lifted; the answer
// comes back with the next data, and the pen never waits for it.
import { corner, moves, read, written } from "./drawing_state.js";

/**
 * What the server sends: BoardData in drawing_board.py.
 * @typedef {import("./drawing_state.js").Stroke} Stroke
 * @typedef {{text: string, colors: string[], shares: number[] | null}} BoardData
 * @typedef {HTMLElement & {drawings?: Stroke[][], waiting: string[], told: string, latest: BoardData,
 *   send: (name: string, value: unknown) => void}} Board  what was sent and is not answered yet; what was sent or came last
 */

const SIDE = 96;

/** @param {HTMLCanvasElement} canvas @param {Stroke[]} strokes */
function paint(canvas, strokes) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = canvas.height = SIDE * scale;
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.scale((SIDE * scale) / 63, (SIDE * scale) / 63);
  Object.assign(pen, { lineWidth: 5, lineCap: "round", lineJoin: "round", strokeStyle: "#111827" });
  for (const stroke of strokes) {
    pen.beginPath();
    stroke.forEach(([x, y], k) => (k ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    if (stroke.length === 1) pen.lineTo(stroke[0][0] + 0.1, stroke[0][1]);
    pen.stroke();
  }
}

/** @param {Board} board @param {number} number @param {HTMLElement} parent @param {string} name */
function addCanvas(board, number, parent, name) {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas");
  const words = document.createElement("figcaption");
  const clear = document.createElement("button");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Draw ${name} here`);
  clear.type = "button";
  clear.textContent = "✕";
  clear.title = `Clear ${name}`;
  clear.setAttribute("aria-label", `Clear ${name}`);
  words.append(name, clear);
  figure.append(canvas, words);
  parent.append(figure);
  const drawing = () => /** @type {Stroke[][]} */ (board.drawings)[number];
  const tell = () => {
    const text = written(/** @type {Stroke[][]} */ (board.drawings));
    if (text === board.told) return;
    board.told = text;
    board.waiting.push(text);
    board.send("drawn", text);
  };
  /** @type {Stroke | null} */
  let stroke = null;
  const add = (/** @type {PointerEvent} */ event) => {
    const box = canvas.getBoundingClientRect();
    const next = corner(event.clientX - box.left, event.clientY - box.top, box.width);
    if (stroke && moves(stroke, next)) stroke.push(next);
    paint(canvas, drawing());
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    stroke = [];
    drawing().push(stroke);
    add(event);
  });
  canvas.addEventListener("pointermove", (event) => stroke && add(event));
  const lift = () => {
    if (!stroke) return;
    stroke = null;
    tell();
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  clear.onclick = () => {
    drawing().length = 0;
    paint(canvas, []);
    tell();
  };
}

/** @param {Board} board */
function build(board) {
  const { colors } = board.latest;
  colors.forEach((color, number) => {
    addCanvas(board, number, board, `class ${number + 1}`);
    /** @type {HTMLElement} */ (board.lastElementChild).style.setProperty("--class", color);
  });
  const asked = document.createElement("div");
  asked.className = "asked";
  board.append(asked);
  addCanvas(board, colors.length, asked, "which is it?");
  const shares = document.createElement("div");
  shares.className = "shares";
  shares.setAttribute("role", "status");
  asked.append(shares);
}

/** The answer: a bar for each class. @param {Board} board */
function say(board) {
  const { shares, colors } = board.latest;
  const place = /** @type {HTMLElement} */ (board.querySelector(".shares"));
  place.replaceChildren();
  if (!shares) return;
  const best = shares.indexOf(Math.max(...shares));
  shares.forEach((share, number) => {
    const name = document.createElement("span");
    const bar = document.createElement("i");
    const value = document.createElement("span");
    name.textContent = `class ${number + 1}`;
    value.textContent = `${Math.round(100 * share)} %`;
    name.className = value.className = number === best ? "best" : "";
    bar.style.setProperty("--class", colors[number]);
    bar.style.setProperty("--share", String(share));
    place.append(name, bar, value);
  });
}

/** @param {{parentElement: HTMLElement, data: BoardData, setTriggerValue: Board["send"]}} component */
export default function ({ parentElement, data, setTriggerValue }) {
  const board = /** @type {Board} */ (parentElement.querySelector(".drawing-board"));
  const isNew = !board.drawings || board.latest.colors.length !== data.colors.length;
  const own = isNew ? -1 : board.waiting.lastIndexOf(data.text);
  const isSame = !isNew && board.latest.text === data.text;
  board.latest = data;
  board.send = setTriggerValue;
  if (own >= 0) {
    board.waiting.splice(0, own + 1);  // the answer to what was drawn here: the pen may be further already
  } else if (!isSame) {
    board.drawings = read(data.text, data.colors.length + 1);  // cleared, or another link
    board.told = data.text;
    board.waiting = [];
  }
  if (isNew) {
    board.replaceChildren();
    build(board);
  }
  board.querySelectorAll("canvas").forEach((canvas, k) => paint(canvas, /** @type {Stroke[][]} */ (board.drawings)[k]));
  say(board);
}
