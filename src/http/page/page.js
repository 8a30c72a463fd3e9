// Keeps a page up to date that says so: fetches it at the interval that the page names and copies
// the differences, node by node, so that focus, selection and scroll position are kept. It knows
// nothing of the page's content, and makes no markup: the server renders all of it. Without this
// script the page is complete, as of page load.
"use strict";

// A page without an interval has a form that its user may be filling in.
const EVERY_MS = Number(document.documentElement.dataset.every);
const ANSWER_WITHIN_MS = 5000;

function carryOver(to, from) {
  if (to.nodeType !== from.nodeType || to.nodeName !== from.nodeName) {
    to.replaceWith(document.importNode(from, true));
    return;
  }
  if (to.nodeType !== Node.ELEMENT_NODE) {
    if (to.data !== from.data) to.data = from.data;
    return;
  }
  for (const { name } of [...to.attributes]) {
    if (!from.hasAttribute(name)) to.removeAttribute(name);
  }
  for (const { name, value } of from.attributes) {
    if (to.getAttribute(name) !== value) to.setAttribute(name, value);
  }
  const [old, fresh] = [[...to.childNodes], [...from.childNodes]];
  fresh.forEach((node, at) => {
    if (old[at]) carryOver(old[at], node);
    else to.append(document.importNode(node, true));
  });
  old.slice(fresh.length).forEach((node) => node.remove());
}

let heard = Date.now();

// Set only when it changes, because a screen reader reads it out.
function say(text, lost) {
  const live = document.getElementById("live");
  if (live.textContent !== text) live.textContent = text;
  live.classList.toggle("lost", lost);
}

async function refresh() {
  try {
    const answer = await fetch(location.pathname + location.search, {
      cache: "no-store",
      signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
    });
    if (!answer.ok) throw new Error(`code ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of ["main", "#about", "title", "link[rel=icon]"]) {
      carryOver(document.querySelector(part), fresh.querySelector(part));
    }
    heard = Date.now();
    say("live", false);
  } catch {
    const time = new Date(heard).toLocaleTimeString();
    say(`no answer since ${time}: the engine has stopped, or cannot be reached`, true);
  }
}

async function keepFresh() {
  const isTyping = document.activeElement.matches("input, select, textarea");
  if (!document.hidden && !isTyping) await refresh();
  setTimeout(keepFresh, EVERY_MS);
}

if (EVERY_MS > 0) keepFresh();
