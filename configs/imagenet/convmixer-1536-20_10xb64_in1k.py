_base_ = "./convmixer-768-32_10xb64_in1k.py"

model = dict(backbone=dict(arch="1536_20"), head=dict(in_channels=1536))

# Half the epochs.
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-4,
        by_epoch=True,
        begin=0,
        end=60,
        convert_to_iter_based=True,
    ),
    dict(
        type="LinearLR",
        start_factor=1.0,
        end_factor=0.05,
        by_epoch=True,
        begin=60,
        end=120,
        convert_to_iter_based=True,
    ),
    dict(
        type="LinearLR",
        start_factor=1.0,
        end_factor=0.0,
        by_epoch=True,
        begin=120,
        end=150,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=150)
