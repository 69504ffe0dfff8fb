"""Where a block's states lie in `inference_params`."""

from torch import Tensor

from ssmlab.core.errors import UserError


def states_from_cache(self, inference_params, batch_size, initialize_states=False) -> tuple[Tensor, ...]:
    """The states of a block by its layer_idx, zeros where there are none yet; a method of the blocks.

    Args:
        initialize_states: set those that are there to zero.
    """
    if self.layer_idx is None:
        name = type(self).__name__
        raise UserError(f"{name}: inference_params need a layer_idx to find their states, got layer_idx=None")
    memory = inference_params.key_value_memory_dict
    if self.layer_idx not in memory:
        memory[self.layer_idx] = self.allocate_inference_cache(batch_size, None)
    elif initialize_states:
        for state in memory[self.layer_idx]:
            state.zero_()
    return memory[self.layer_idx]
