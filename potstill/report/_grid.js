  // The whole of a heat map's cell in words, below it: a title alone is out of reach of a finger.
  const readout = document.getElementById("readout");
  if (readout) {
    const overview = document.getElementById("overview");
    const say = (event) => {
      const cell = event.target.closest("[data-says]");
      if (!cell) return;
      overview.querySelectorAll(".picked").forEach((other) => other.classList.remove("picked"));
      cell.classList.add("picked");
      readout.textContent = cell.dataset.says;
    };
    overview.addEventListener("pointerover", say);
    overview.addEventListener("click", say);
  }
