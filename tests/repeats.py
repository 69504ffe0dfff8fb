"""Tests that show again, at a price, what a cheaper case of `make test` shows: `make test-all` runs them.

A pattern is a test's name with its folder, as pytest prints it, with * for anything. Each kind keeps one case at least
in the fast run; where a file is named here as a whole, the file that shows it faster is said.
"""

from fnmatch import fnmatchcase

REPEATS = (
    # other models than the one that is kept
    "generation/test_translate.py::test_a_translation_is_the_same_alone_*[[]translation_[!m]*",
    "generation/test_translate.py::test_a_translation_is_the_same_alone_*[[]translation_mamba[2_]?[!e]*",
    "tasks/translate/test_translation_decoding.py::test_the_state_goes_on_*[[]translation_hybrid_test*",
    "tasks/translate/test_translation_decoding.py::test_the_state_goes_on_*[[]translation_mamba2_test*",
    "interpret/test_deletion_scores.py::test_maps_of_a_trained_model_beat_random_maps[[]vim_test*",
    "adapt/test_adapt_training.py::test_runs_that_save_memory_*[[]vmamba_test*",
    "adapt/test_adapt_families.py::test_a_method_acts_or_is_refused[[]umamba_bot*",
    "models/test_umamba.py::test_golden_case[[]enc_3d_small*",  # as ops/test_parity.py
    "checkpoints/test_hybrids.py::test_a_state_is_a_value[[][!b]*",
    # runs and fine-tunings that train once more
    "studies/test_mistakes.py::test_a_trained_model_is_explained_without_training",
    "tasks/translate/test_translation_runs.py::test_a_model_is_fine_tuned_*",  # as test_fine_tuning.py
    "tasks/translate/test_translation_runs.py::test_interrupted_and_resumed_is_bit_equal[[]changes[12]*",
    "tasks/translate/test_translation_python.py::test_an_opus_mt_folder_is_fine_tuned_*",
    "tasks/translate/test_translation_report.py::test_several_runs_are_set_side_by_side",
    "tasks/translate/test_translation_report.py::test_damaged_scores_are_a_note_on_the_page",
    "experiments/test_language_runs.py::test_interrupted_and_resumed_is_bit_equal[[]*changes[123]*",
    "experiments/test_sweep.py::test_trials_start_from_the_base_of_the_recipe",
    "experiments/test_run.py::test_what_is_slower_is_said_once",
    "experiments/test_run.py::test_weights_of_another_run",
    "cli/test_published_names.py::test_compare_explain_and_compress",
    "cli/test_evaluate.py::test_it_is_the_runs_own_test_*[[]segmentation*",
    "cli/test_compress_command.py::test_language_models_are_compressed_too[[]huggingface*",
    "adapt/test_reward.py::test_the_reward_rises_*",
    "experiments/test_adapt_resume.py::test_interrupted_and_resumed_is_bit_equal[[]language-lora*",
    "cli/test_commands.py::test_run_prints_the_comparison_and_the_report",  # as experiments/test_run.py
    "cli/test_published_names.py::test_a_recipe_of_classification",
    "studies/test_compare.py::test_names_alone_are_measured_by_cost",
    "studies/test_explain.py::test_every_family_is_explained[[][!v]*",
    # damage of other files and other kinds
    "cli/test_damaged_runs.py::test_the_page_says_what_is_missing[[]*-flipped*",
    "cli/test_damaged_runs.py::test_the_page_says_what_is_missing[[]*-zeroed*",
    "cli/test_damaged_runs.py::test_the_page_says_what_is_missing[[]*-missing*",
    "cli/test_translate_command.py::test_a_hostile_file_keeps_its_lines[[]]",
    # measurements of speed as a whole
    "cli/test_bench.py::test_a_wrong_backend_stops_everything",  # as cli/test_commands.py, of doctor
    "cli/test_bench.py::test_an_opponent_that_is_wrong_is_left_out",
    "cli/test_bench.py::test_interrupting_writes_nothing",
    "cli/test_bench.py::test_suites_of_whole_models_*",
    "profiling/test_bench_whole.py::test_tiny_language_models",
    "profiling/test_bench_ops.py::test_all_candidates_agree_*",
    "cli/test_models_command.py::test_a_large_language_model_takes_no_memory",
    # kernels: compiled once more, and in more layouts of memory
    "models/test_compile.py::test_a_block_*[[]mamba2*",
    "models/test_compile.py::test_a_token_of_decoding*",
    "ops/test_mamba3_scan.py::test_compiles_without_graph_breaks",
    "ops/test_complex_scan.py::test_native_equals_definition[[]channels-[!p]*",  # as with gaps and with tokens
    "ops/test_complex_scan.py::test_fast_rotations_keep_their_phase[[]False-*",
    "ops/test_complex_scan.py::test_compiles_without_graph_breaks",
    "ops/test_complex_scan.py::test_opcheck[[]*",
    "ops/test_ssd.py::test_compiles_without_graph_breaks[[]1]",
    "ops/test_ssd.py::test_opcheck[[]*",  # as ops/test_examples.py
    "ops/test_zero_order_hold.py::test_opcheck[[]*",
    "ops/test_zero_order_hold.py::test_gradients_of_higher_order",
    "ops/test_linear_product.py::test_numbers_and_gradients[[]size2-*",
    "robustness/test_transformations.py::test_formula[[]gaussian_blur-5*",
    "data/pairs/test_subwords.py::test_the_same_texts_give_the_same_vocabulary_in_another_process",
)


def is_repeat(nodeid: str) -> bool:
    """Whether a test, such as tests/ops/test_ssd.py::test_opcheck[1], is named here."""
    return any(fnmatchcase(nodeid.removeprefix("tests/"), pattern) for pattern in REPEATS)
