// @ts-check
// What a drawing is in a link: pure functions, without an element or a clock.

/** A coordinate is one of these: the first is left, or above. The same list stands in own_drawings.py. */
export const PLACES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/** @typedef {[number, number]} Corner  across and down, each from 0 to 63
 *  @typedef {Corner[]} Stroke */

/**
 * The drawings of a link, so many of them: `~` between them, `.` between strokes, two characters a corner. What is no
 * stroke, in a link that was edited by hand, is left out; the server says so.
 * @param {string} text @param {number} count @returns {Stroke[][]}
 */
export function read(text, count) {
  const parts = text.split("~");
  return Array.from({ length: count }, (_, number) =>
    (parts[number] ?? "").split(".").filter(isStroke).map((stroke) =>
      Array.from({ length: stroke.length / 2 }, (_, k) =>
        /** @type {Corner} */ ([PLACES.indexOf(stroke[2 * k]), PLACES.indexOf(stroke[2 * k + 1])]))));
}

/** @param {string} text */
function isStroke(text) {
  return text.length > 0 && text.length % 2 === 0 && [...text].every((place) => PLACES.includes(place));
}

/** The inverse of `read`; nothing where nothing is drawn. @param {Stroke[][]} drawings */
export function written(drawings) {
  const text = drawings
    .map((strokes) => strokes.map((stroke) => stroke.map(([x, y]) => PLACES[x] + PLACES[y]).join("")).join("."))
    .join("~");
  return text.replaceAll("~", "") ? text : "";
}

/**
 * A place on a canvas as a corner. @param {number} x @param {number} y @param {number} side @returns {Corner}
 */
export function corner(x, y, side) {
  const at = (/** @type {number} */ value) => Math.max(0, Math.min(63, Math.round((value / side) * 63)));
  return [at(x), at(y)];
}

/** Whether a corner is far enough from the last of a stroke to be kept. @param {Stroke} stroke @param {Corner} next */
export function moves(stroke, next) {
  const last = stroke[stroke.length - 1];
  return !last || Math.hypot(next[0] - last[0], next[1] - last[1]) >= 2;
}
