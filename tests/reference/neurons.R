# Writes neurons.csv: what R says of the columns of activations.csv. Run in this folder:
#   Rscript neurons.R
# R 4.2.2 with pROC 1.18.0 and effectsize 0.8.3 wrote the files that are here.
suppressMessages({library(pROC); library(effectsize)})

activations <- read.csv("activations.csv")
label <- activations$label
rows <- list()
for (column in setdiff(names(activations), "label")) {
  x <- activations[[column]]
  a <- x[label == "cat"]
  b <- x[label != "cat"]
  binary <- factor(label == "cat")
  u <- suppressWarnings(wilcox.test(a, b, exact = FALSE, correct = TRUE))
  greater <- suppressWarnings(wilcox.test(a, b, exact = FALSE, correct = TRUE, alternative = "greater"))
  t <- t.test(a, b, var.equal = FALSE)
  auc <- as.numeric(ci.auc(roc(binary, x, levels = c("FALSE", "TRUE"), direction = "<"), method = "delong"))
  kruskal <- kruskal.test(x, factor(label))
  welch <- oneway.test(x ~ factor(label), var.equal = FALSE)
  rows[[column]] <- data.frame(
    neuron = column, u = unname(u$statistic), p = u$p.value, p_greater = greater$p.value,
    t = unname(t$statistic), p_welch = t$p.value,
    auroc_low = auc[1], auroc = auc[2], auroc_high = auc[3],
    h = unname(kruskal$statistic), p_kruskal = kruskal$p.value,
    hedges_g = hedges_g(a, b, pooled_sd = TRUE)$Hedges_g, cliffs_delta = cliffs_delta(a, b)$r_rank_biserial,
    f = unname(welch$statistic), p_welch_anova = welch$p.value
  )
}
table <- do.call(rbind, rows)
table$p_bh <- p.adjust(table$p, "BH")
table$p_holm <- p.adjust(table$p, "holm")
write.csv(format(table, digits = 15), "neurons.csv", row.names = FALSE, quote = FALSE)
