/*
 * The same training step in llm.c (Karpathy's train_gpt2.c, float32, OpenMP), for bench.py: reads seconds,
 * prints tokens/s, until end of file.  Compiled with -DTESTING and the path of llm.c's folder; its step has
 * no clipping.
 *
 * llmc_step L D_MODEL HEADS T B V
 */
#include "train_gpt2.c"

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

static void build(GPT2 *model, GPT2Config config)
{
    *model = (GPT2){.config = config};
    fill_in_parameter_sizes(model->param_sizes, config);
    for (int i = 0; i < NUM_PARAMETER_TENSORS; i++)
        model->num_parameters += model->param_sizes[i];
    model->params_memory = malloc_and_point_parameters(&model->params, model->param_sizes);
    for (size_t i = 0; i < model->num_parameters; i++)
        model->params_memory[i] = 0.02f * ((float) (i * 2654435761u % 2001) / 1000 - 1);
}

int main(int argc, char **argv)
{
    FILE *answers = fdopen(dup(1), "w"); /* what llm.c itself says goes to stderr */
    char line[64];
    GPT2 model;

    if (argc != 7) {
        fprintf(stderr, "usage: llmc_step L D_MODEL HEADS T B V\n");
        return 2;
    }
    int T = atoi(argv[4]), B = atoi(argv[5]), V = atoi(argv[6]), steps = 0;
    int *tokens = malloc((size_t) (B * T + 1) * sizeof *tokens);

    dup2(2, 1);
    build(&model, (GPT2Config){.max_seq_len = T,
                               .vocab_size = V,
                               .padded_vocab_size = V,
                               .num_layers = atoi(argv[1]),
                               .num_heads = atoi(argv[3]),
                               .channels = atoi(argv[2])});
    for (int i = 0; i <= B * T; i++)
        tokens[i] = (int) ((unsigned) i * 2654435761u % (unsigned) V);
    while (fgets(line, sizeof line, stdin)) {
        double start = seconds_now(), elapsed;
        int done = 0;

        do {
            gpt2_forward(&model, tokens, tokens + 1, B, T);
            gpt2_zero_grad(&model);
            gpt2_backward(&model);
            gpt2_update(&model, 1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, ++steps);
            done++;
        } while ((elapsed = seconds_now() - start) < atof(line));
        fprintf(answers, "%.1f\n", done * (double) (B * T) / elapsed);
        fflush(answers);
    }
    free(tokens);
    gpt2_free(&model);
    return 0;
}
