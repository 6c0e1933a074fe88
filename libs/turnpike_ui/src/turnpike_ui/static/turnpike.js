// What pages gain with JavaScript: copy, slider beside a number field, focus on the error summary. All pages are complete without it.
document.querySelector("[data-error-summary]")?.focus();

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue; // Plain http on another host than this machine has no clipboard.
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent.trim());
    const status = document.getElementById(`${button.dataset.copy}-copied`);
    status.textContent = "Copied";
    setTimeout(() => { status.textContent = ""; }, 2000);
  });
}

for (const slider of document.querySelectorAll("[data-slider-for]")) {
  const field = document.getElementById(slider.dataset.sliderFor);
  const format = new Intl.NumberFormat("en-US");
  slider.closest("[data-slider-box]").hidden = false;
  // The slider's steps are powers: equal distances multiply, so small and large numbers are both in reach.
  const { low, high } = slider.dataset;
  const ratio = Math.log(high / low);
  const place = () => { slider.value = 1000 * Math.log(Math.max(low, Number(field.value.replace(/[^0-9]/g, "")) || low) / low) / ratio; };
  slider.addEventListener("input", () => {
    const value = low * Math.exp(ratio * slider.value / 1000);
    const unit = 10 ** Math.max(0, Math.floor(Math.log10(value)) - 1);
    field.value = format.format(Math.round(value / unit) * unit);
    slider.setAttribute("aria-valuetext", field.value);
  });
  slider.addEventListener("change", () => field.form.requestSubmit());
  field.addEventListener("input", place);
  place();
}
