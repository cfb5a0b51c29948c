from marble.models._standin import UNet
