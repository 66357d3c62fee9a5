"use strict";
const DIFFERENCE = "difference from high x4";

for (const figure of document.querySelectorAll(".case")) {
  const stage = figure.querySelector(".stage");
  const pictures = new Map([...figure.querySelectorAll(".strip img")].map((img) => [img.alt, img]));
  const names = [...pictures.keys()];
  const high = pictures.get("high resolution");
  const canvas = stage.querySelector("canvas");
  const sides = {};

  const show = (side) => {
    const chosen = sides[side].value;
    const image = stage.querySelector("img." + side);
    if (side === "right") {
      canvas.hidden = chosen !== DIFFERENCE;
      image.hidden = !canvas.hidden;
    }
    if (chosen === DIFFERENCE) {
      drawDifference(canvas, pictures.get(sides.left.value), high);
    } else {
      image.src = pictures.get(chosen).src;
      image.alt = chosen;
    }
    if (side === "left" && sides.right && sides.right.value === DIFFERENCE) show("right");
  };

  for (const [side, first] of [["left", names[1]], ["right", names[names.length - 2]]]) {
    const select = figure.querySelector("select." + side);
    const options = side === "right" ? [...names, DIFFERENCE] : names;
    select.append(...options.map((name) => new Option(name, name, false, name === first)));
    select.addEventListener("change", () => show(side));
    sides[side] = select;
  }
  show("left");
  show("right");
  stage.querySelector("input").addEventListener("input", (event) => {
    stage.style.setProperty("--at", event.target.value + "%");
  });
}

for (const select of document.querySelectorAll("select.metric")) {
  const plots = select.closest("section").querySelectorAll(".plot");
  select.addEventListener("change", () => {
    plots.forEach((plot, index) => { plot.hidden = index !== select.selectedIndex; });
  });
}

async function drawDifference(canvas, image, high) {
  await Promise.all([image.decode(), high.decode()]);
  canvas.width = high.naturalWidth;
  canvas.height = high.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const read = (picture) => {
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  };
  const difference = read(image), truth = read(high);
  for (let i = 0; i < truth.data.length; i += 1) {
    if (i % 4 !== 3) difference.data[i] = 4 * Math.abs(difference.data[i] - truth.data[i]);
  }
  context.putImageData(difference, 0, 0);
}
