/*
 * Training of byte-pair merges: first the pieces (pretokenize.h) of a text are counted, then the most
 * frequent pair of neighbouring tokens is merged, again and again (Gage 1994; Sennrich et al. 2016).  Ties go
 * to the pair with the lowest ids.  The result depends on the counts only, not on the order of the text.
 */
#ifndef TLAW_BPE_TRAIN_H
#define TLAW_BPE_TRAIN_H

#include <stddef.h>
#include <stdint.h>

struct bpe_trainer;

/*
 * Bytes of all distinct pieces that are counted; bounds memory at about 50 bytes each.  20 MB of prose have a
 * tenth of that; once it is full, pieces not seen before are left out.
 */
#define BPE_DISTINCT_BYTES (4 << 20)

/* NULL when memory is short. */
struct bpe_trainer *bpe_trainer_new(void);
void bpe_trainer_free(struct bpe_trainer *trainer);
/* Counts the pieces of a window (as tokenizer_encode_window).  Returns the bytes used, or -1 when memory is
 * short. */
int64_t bpe_trainer_count(struct bpe_trainer *trainer, const void *text, size_t size, int last);
/*
 * Fills at most n merges; fewer when no pair is left that occurs twice and makes a token of at most
 * TOKENIZER_MAX_TOKEN bytes.  Returns their number, or -1 when memory is short or tick(arg), called every few
 * thousand steps, returns non-zero.  To be called once.
 */
int64_t bpe_trainer_run(struct bpe_trainer *trainer, size_t n, uint16_t (*merges)[2], int (*tick)(void *),
                        void *arg);

#endif
