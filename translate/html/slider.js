// Moves every before/after slider of a page: what is left of the cut is one picture, what is right of it another.
for (const figure of document.querySelectorAll(".slider")) {
  const [left, right, zoom] = figure.querySelectorAll("select"), range = figure.querySelector("input");
  const view = figure.querySelector(".view"), pictures = figure.querySelector(".pictures");
  const show = () => {
    pictures.style.width = zoom.value ? `calc(var(--width) * ${zoom.value})` : "100%";
    pictures.style.imageRendering = zoom.value > 1 ? "pixelated" : "auto";
    const cut = Math.min(view.scrollLeft + view.clientWidth * range.value / 100, pictures.clientWidth);  // of what is seen
    for (const image of pictures.querySelectorAll("img")) {
      const what = image.dataset.what, over = what === right.value;
      image.hidden = !over && what !== left.value;
      image.style.zIndex = over ? 1 : 0;
      image.style.clipPath = over && what !== left.value ? `inset(0 0 0 ${cut}px)` : "none";
    }
    const divider = pictures.querySelector(".divider");
    divider.style.left = `${cut}px`, divider.style.zIndex = 2;
  };
  for (const part of [left, right, zoom, range]) part.addEventListener("input", show);
  view.addEventListener("scroll", show), window.addEventListener("resize", show), show();
}
