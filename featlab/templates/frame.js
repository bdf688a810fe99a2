// In a notebook's frame (srcdoc) a link to a place of the page would lead to the notebook's address.

if (location.protocol === "about:") {
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    const place = document.getElementById(link.hash.slice(1));
    const fold = place.closest("details");
    if (fold) fold.open = true;
    place.scrollIntoView();
  });
}
