// What all parts of the page share: elements, numbers as text, data, colours, the theme.
// The page is complete without any of this; every part shows its controls when it is ready.

const MISSING = 65535;
const byId = (id) => document.getElementById(id);
const root = document.documentElement;

/** An element with attributes and children. Strings become text, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A name of the user's, in its own direction of writing; long ones shortened, whole as tool tip. */
const named = (name) => make("bdi", { class: "name", title: name }, shortened(name));

function shortened(name, most = 60) {
  const signs = [...name];
  if (signs.length <= most) return name;
  return `${signs.slice(0, most - 13).join("")}…${signs.slice(-12).join("")}`;
}

/** Little-endian numbers from base64. */
function unpacked(text, Type) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
  return new Type(bytes.buffer);
}

const counted = (n) => n.toLocaleString("en");
const decimal = (value, digits = 2) => value.toFixed(digits).replace("-", "−");
/** A score that is neither 0 nor 1 does not read so. */
const score = (value) =>
  [2, 3, 4].map((digits) => decimal(value, digits)).find((text) => Number(text) % 1 !== 0) ??
  decimal(value);
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

/** As the page prints them: 0.013, 3 × 10⁻⁹. */
function pText(p) {
  if (p === null) return "–";
  if (p === 0) return "< 10⁻³⁰⁰";
  if (p >= 0.001) return p.toFixed(3);
  const [mantissa, exponent] = p.toExponential(0).split("e");
  const raised = exponent.replace(/[-\d]/g, (sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]);
  return `${mantissa}\u00a0×\u00a010${raised}`;
}

/** The value of a colour of the style sheet, as it is now. */
const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

const dark = matchMedia("(prefers-color-scheme: dark)");

/** Whether the page is dark now: as chosen with its button, else as the reader's system asks. */
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);

const repaints = [];

/** Calls `paint` whenever the page's colours change. */
const onTheme = (paint) => repaints.push(paint);
const repaint = () => repaints.forEach((paint) => paint());

function startTheme() {
  const button = byId("theme");
  // A browser may keep nothing for a file; the choice then lasts as long as the page.
  const kept = (use) => {
    try {
      return use(localStorage);
    } catch {
      return null;
    }
  };
  const chosen = kept((storage) => storage.getItem("featlab-theme"));
  if (["dark", "light"].includes(chosen)) root.dataset.theme = chosen;
  const tell = () => {
    button.textContent = isDark() ? "Light page" : "Dark page";
    repaint();
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    kept((storage) => storage.setItem("featlab-theme", root.dataset.theme));
    tell();
  });
  dark.addEventListener("change", tell);
  tell();
  button.hidden = false;
}

/** The contents name the section that is read: the last whose head has passed the upper third. */
function startContents() {
  const links = [...document.querySelectorAll("nav a[href^='#']")];
  const parts = links.map((link) => byId(link.hash.slice(1)));
  const tell = () => {
    const line = innerHeight / 3;
    const bottom = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const here = bottom
      ? parts.length - 1
      : parts.reduce((k, part, i) => (part.getBoundingClientRect().top <= line ? i : k), 0);
    links.forEach((link, i) => {
      if (i !== here) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        const list = link.closest("ol");
        list.scrollTo({ left: link.offsetLeft - list.offsetLeft - 40 });
      }
    });
  };
  let asked = false;
  addEventListener(
    "scroll",
    () => {
      if (!asked) requestAnimationFrame(() => ((asked = false), tell()));
      asked = true;
    },
    { passive: true },
  );
  tell();
}

/** What is folded is unfolded for the printer, also by browsers that the style sheet cannot tell. */
function startFolds() {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of opened) fold.open = false;
  });
}

/** After the page stands; a part that fails leaves the others, and the page, as they are. */
function start() {
  const data = JSON.parse(byId("featlab-data").textContent);
  const pictures = data.pictures.map((jpeg) => `data:image/jpeg;base64,${jpeg}`);
  const parts = [
    startTheme,
    startContents,
    startFolds,
    startTables,
    data.neurons && (() => startExplorer(data.neurons, pictures)),
    data.gallery && (() => startGallery(data.gallery, pictures)),
    byId("predictions-controls") && startPredictions,
    data.embedding && (() => startEmbedding(data.embedding, pictures)),
  ];
  for (const part of parts.filter(Boolean)) {
    try {
      part();
    } catch (error) {
      console.error(error);
    }
  }
  root.dataset.ready = "yes";
}

if (document.readyState === "complete") start();
else addEventListener("load", () => setTimeout(start), { once: true });
