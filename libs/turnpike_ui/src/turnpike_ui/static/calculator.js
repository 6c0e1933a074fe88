// What a form gains with JavaScript that is answered while somebody fills it in: sliders, live figures, a chart to press.
// A slider beside a number field. Its first place is nothing; from the second on equal distances multiply, so that small and
// large numbers are both in reach. 24 places for each power of ten: a key press always changes the first two digits.
const PLACES = 24;
const format = new Intl.NumberFormat("en-US");
const numberOf = (field) => Number(field.value.replace(/[^0-9]/g, ""));
const rounded = (value, digits = 2) => {
  const unit = 10 ** Math.max(0, Math.floor(Math.log10(Math.max(1, value))) + 1 - digits);
  return Math.round(value / unit) * unit;
};

/** Write a number into a field as if somebody had typed it. */
function fill(field, value) {
  field.value = format.format(value);
  field.dispatchEvent(new Event("input", { bubbles: true }));
}

for (const slider of document.querySelectorAll("[data-slider-for]")) {
  const field = document.getElementById(slider.dataset.sliderFor);
  const { low, high } = slider.dataset;
  slider.max = 1 + PLACES * Math.round(Math.log10(high / low));
  slider.closest("[data-slider-box]").hidden = false;
  let sliding = false;
  const choices = document.querySelectorAll(`[data-fill="${field.id}"]`);
  const follow = () => {
    const value = numberOf(field);
    if (!sliding) slider.value = value < low ? 0 : 1 + PLACES * Math.log10(value / low);
    slider.setAttribute("aria-valuetext", format.format(value));
    for (const choice of choices) {
      if (Number(choice.dataset.value) === value) choice.setAttribute("aria-current", "true"); else choice.removeAttribute("aria-current");
    }
  };
  slider.addEventListener("input", (event) => {
    event.stopPropagation(); // The field says it.
    sliding = true;
    fill(field, slider.value === "0" ? 0 : rounded(low * 10 ** ((slider.value - 1) / PLACES)));
    sliding = false;
  });
  field.addEventListener("input", follow);
  field.addEventListener("change", () => { if (/^[0-9 ,]+$/.test(field.value)) field.value = format.format(numberOf(field)); });
  follow();
}

// A form with data-live: while it is filled in, what its answer holds replaces the parts of the page with the same ids.
const WAIT = { typing: 150, telling: 900 };

/** Take the parts of an answer into the page; what somebody opened stays open, and the focus stays where it was. */
function take(text) {
  const answer = new DOMParser().parseFromString(text, "text/html");
  const focused = document.activeElement?.closest("[id]")?.id;
  for (const part of answer.querySelectorAll("[data-live-part]")) {
    const old = document.getElementById(part.id);
    if (!old) continue;
    for (const one of part.querySelectorAll("details[id]")) {
      const before = document.getElementById(one.id);
      if (before) one.open = before.open;
    }
    old.replaceWith(document.adoptNode(part));
  }
  if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus();
}

for (const form of document.querySelectorAll("form[data-live]")) {
  const status = form.querySelector("[data-live-status]");
  let timer, teller, running;

  const mark = () => {
    for (const field of form.querySelectorAll(".input")) {
      const wrong = document.getElementById(`${field.id}-error`)?.textContent;
      if (wrong) field.setAttribute("aria-invalid", "true"); else field.removeAttribute("aria-invalid");
    }
    const wrong = form.querySelector(".field-error:not(:empty)");
    const result = document.querySelector("[data-announce]");
    if (!wrong && result) history.replaceState(null, "", form.getAttribute("action") + (result.dataset.query && `?${result.dataset.query}`));
    clearTimeout(teller);
    teller = setTimeout(() => { status.textContent = wrong?.textContent ?? result?.dataset.announce ?? ""; }, WAIT.telling);
  };

  const update = async () => {
    clearTimeout(timer);
    running?.abort();
    running = new AbortController();
    const address = new URL(form.dataset.live, location.href);
    for (const [name, value] of new FormData(form)) address.searchParams.append(name, value);
    try {
      const answer = await fetch(address, { headers: { Accept: "text/html" }, signal: running.signal });
      if (!answer.ok) return; // Busy or away: the page stays as it is, and the button asks again.
      take(await answer.text());
      mark();
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof TypeError)) throw error; // A newer question took its place, or no network.
    }
  };

  form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(update, WAIT.typing); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    await update();
    form.querySelector("[aria-invalid]")?.focus();
  });
  form.addEventListener("click", (event) => {
    const choice = event.target.closest("[data-fill]");
    if (!choice || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    fill(document.getElementById(choice.dataset.fill), Number(choice.dataset.value));
  });
  // A press in the chart asks for the usage at that place.
  document.addEventListener("click", (event) => {
    const plot = event.target.closest("[data-chart-for]");
    if (!plot) return;
    const box = plot.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    fill(document.getElementById(plot.dataset.chartFor), rounded(share * plot.dataset.chartAcross, 3));
  });
}

// In a frame the page tells the one around it how tall it is; how tall is all it tells.
if (document.body.hasAttribute("data-framed") && window.parent !== window) {
  const tell = () => window.parent.postMessage({ type: "turnpike.height", height: document.body.offsetHeight }, "*");
  new ResizeObserver(tell).observe(document.body);
}
