// @ts-check
// The glossary opens here, at a click on any link to a term, wherever on the page it stands: nothing that the server
// draws meanwhile closes it, opens it again or loses a key.

/**
 * What the server sends: GlossaryData in glossary_view.py.
 * @typedef {{anchor: string, terms: Record<string, string>, slugs: Record<string, string>, asked: string | null,
 *   found: string | null, said: string}} GlossaryData
 * @typedef {HTMLDialogElement & {listening?: AbortController}} Glossary  what it listens by, to be ended before it does anew
 */

/** @param {HTMLElement} list @param {string} name @param {string} text */
function addTerm(list, name, text) {
  const term = document.createElement("dt");
  const meaning = document.createElement("dd");
  term.textContent = name;
  meaning.textContent = text;
  list.append(term, meaning);
}

/** @param {{data: GlossaryData, parentElement: HTMLElement}} component */
export default function ({ data, parentElement }) {
  const dialog = /** @type {Glossary} */ (parentElement.querySelector("dialog"));
  const box = /** @type {HTMLElement} */ (dialog.firstElementChild);
  const search = /** @type {HTMLInputElement} */ (dialog.querySelector("input"));
  const close = /** @type {HTMLButtonElement} */ (dialog.querySelector("button"));
  const note = /** @type {HTMLElement} */ (dialog.querySelector("p"));
  const lists = /** @type {HTMLElement} */ (dialog.querySelector(".lists"));
  const chosen = /** @type {HTMLElement} */ (lists.firstElementChild);
  const all = /** @type {HTMLElement} */ (lists.lastElementChild);

  const list = () => {
    const sought = search.value.trim().toLowerCase();
    const found = Object.entries(data.terms).filter((pair) => pair.join(" ").toLowerCase().includes(sought));
    all.replaceChildren();
    for (const [name, text] of found) addTerm(all, name, text);
    chosen.hidden = sought !== "" || !chosen.childElementCount;
    if (sought) note.textContent = found.length ? "" : "No term says so.";
    lists.scrollTop = 0;
  };
  /** @param {string | null} name @param {string} said */
  const open = (name, said = "") => {
    search.value = "";
    note.textContent = said;
    chosen.replaceChildren();
    if (name) addTerm(chosen, name, data.terms[name]);
    list();
    if (!dialog.open) dialog.showModal();
    (matchMedia("(pointer: coarse)").matches ? lists : search).focus(); // no keyboard comes up over what is read
  };
  const meant = (/** @type {string} */ link) => {
    const slug = link.slice(data.anchor.length);
    return Object.hasOwn(data.slugs, slug) ? data.slugs[slug] : null;
  };
  const follow = (/** @type {MouseEvent} */ event) => {
    const link = /** @type {Element} */ (event.target).closest?.(`a[href^="${data.anchor}"]`);
    if (!link) return;
    event.preventDefault();
    open(meant(/** @type {string} */ (link.getAttribute("href"))));
  };

  if (location.hash.startsWith(data.anchor)) { // clicked before this was there
    open(meant(location.hash));
    history.replaceState(history.state, "", location.pathname + location.search);
  }
  const page = document.documentElement.dataset; // outlives this element, which each page makes anew
  if (data.asked !== null && page.askedTerm !== data.asked) {
    page.askedTerm = data.asked;
    open(data.found, data.said);
  }
  dialog.listening?.abort(); // this is run again for new data and for another theme
  const listening = (dialog.listening = new AbortController());
  const { signal } = listening;
  let pressed = false; // beside it: a selection may end there
  document.addEventListener("click", follow, { signal });
  search.addEventListener("input", list, { signal });
  close.addEventListener("click", () => dialog.close(), { signal });
  dialog.addEventListener("pointerdown", (event) => { pressed = event.target === dialog; }, { signal });
  dialog.addEventListener("click", () => { if (pressed) dialog.close(); }, { signal });
  box.addEventListener("click", (event) => event.stopPropagation(), { signal });
  return () => listening.abort();
}
