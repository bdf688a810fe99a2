"""What the functions of every room take: each kind of argument is read and checked here, once.

Rows may be numbers or a mask; what goes with images has their index or none; a label is text; a
group called "" (or missing) is no group; a split has the sides train, confirm and test; true boxes
are those of one kind that belong to their image's class; confirmed detectors come best first. A
mistake is a `FeatlabError` that names the argument, what is allowed, and what was given.

For featlab's own rooms; users meet it in errors only.
"""

from featlab.arguments.checks import (
    LEVELS,
    FeatureBlock,
    Features,
    Progress,
    blocks_of_neurons,
    check_between,
    check_choice,
    check_choices,
    check_columns,
    check_same_rows,
    check_whole,
    feature_blocks,
    feature_columns,
    finite_matrix,
    is_signed,
    neuron_ids,
    origin_of,
    said,
    score_text,
    tracked,
    whole_numbers,
)
from featlab.arguments.tables import (
    CROWD,
    SIDES,
    best_first,
    boxes_of_kind,
    check_classes_in_train,
    class_codes,
    confirmed_detectors,
    detector_row,
    effective_units,
    group_codes,
    group_names,
    has_groups,
    in_turn,
    is_unlabelled,
    row_numbers,
    selected_detectors,
    split_sides,
    stratified_rows,
    text_labels,
    true_boxes,
    with_unseen_limits,
)
