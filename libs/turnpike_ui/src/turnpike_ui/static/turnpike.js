// What pages gain with JavaScript: copy, focus on the error summary. All pages are complete without it.
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
