() => {
  // The most bytes of a file by the id of the place that it is given to.
  const LIMITS = JSON.parse('$LIMITS');
  // A picture pasted anywhere goes where a chosen file would go, on the tab that is open.
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files;
    const input = [...document.querySelectorAll(".takes-paste input[type=file]")].find(
      (candidate) => candidate.closest(".takes-paste").offsetParent,
    );
    if (!files?.length || !input) return;
    event.preventDefault();
    const one = new DataTransfer();
    one.items.add(files[0]);
    input.files = one.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
  // A file over the limit is never sent; the tab that it was given to says why.
  const checkSize = (event) => {
    const place = event.target.closest?.(".takes-paste");
    const file = (event.dataTransfer ?? event.target).files?.[0];
    if (!place || !(file?.size > LIMITS[place.id])) return;
    event.preventDefault(); // or the browser would open a file that was dropped
    event.stopImmediatePropagation();
    if (event.type === "change") event.target.value = ""; // so that it can be chosen again
    else event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));
    place.parentElement.querySelector("button.too-large").click();
  };
  document.addEventListener("change", checkSize, true);
  document.addEventListener("drop", checkSize, true);
  // A picture laid over another: its slider shows more or less of it.
  document.addEventListener("input", (event) => {
    const slider = event.target.closest?.("input.opacity");
    if (!slider) return;
    const figure = slider.closest("figure");
    figure.querySelector(".over").style.opacity = slider.value / 100;
    figure.querySelector("output").textContent = `${slider.value} %`;
  });
}
