"""What the functions of every room take: each kind of argument is read and checked here, once.

Rows may be numbers or a mask; what goes with images has their index or none; a label is text; a
group called "" (or missing) is no group; a split has the sides train, confirm and test; true boxes
are those of one kind that belong to their image's class; confirmed detectors come best first. A
mistake is a `FeatlabError` that names the argument, what is allowed, and what was given.

For featlab's own rooms; users meet it in errors only.
"""

from featlab.arguments.checks import (
    Progress,
    check_between,
    check_choice,
    check_choices,
    check_columns,
    check_same_rows,
    check_whole,
    said,
    tracked,
    whole_numbers,
)
from featlab.arguments.images import (
    SIDES,
    check_classes_in_train,
    class_codes,
    group_codes,
    group_names,
    has_groups,
    row_numbers,
    split_sides,
    stratified_rows,
    text_labels,
)
from featlab.arguments.matrices import (
    LEVELS,
    FeatureBlock,
    Features,
    blocks_of_neurons,
    feature_blocks,
    feature_columns,
    finite_matrix,
    neuron_ids,
    origin_of,
)
from featlab.arguments.tables import (
    best_first,
    boxes_of_kind,
    confirmed_detectors,
    detector_row,
    in_turn,
    selected_detectors,
    true_boxes,
)
